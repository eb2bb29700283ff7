"""Everything that computes the same as the plain library, faster."""

from .optimize import optimize as optimize
