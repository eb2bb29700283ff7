"""
A first one
===========

Text.
"""

import pyconv

print(pyconv.list_models())
