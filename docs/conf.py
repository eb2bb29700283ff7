"""How Sphinx builds the site; `make docs` runs it."""

import sys
import zlib
from pathlib import Path

import pyconv

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

project, author, copyright = "torch-pyconv", "The pyconv developers", "The pyconv developers"
version = release = pyconv.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "commands",
    "fields",
    "pages",
    "zoo",
]
exclude_patterns = ["_build", "tutorials", "**/README.md"]

# Look.
html_theme = "furo"
html_title = "torch-pyconv"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["sortable.js"]
html_show_sphinx = html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "github-dark"
copybutton_prompt_text, copybutton_prompt_is_regexp = r"\$ |>>> |\.\.\. ", True

# Markdown: every heading can be linked to, as on a git host.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline", "colon_fence"]

# The reference.
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 80
napoleon_numpy_docstring, napoleon_use_ivar = False, True

# Every name of ours must be found. Names of other projects are links where their inventories can be
# fetched, and plain text where not: the second place of each is an inventory that has no name.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!pyconv).*")]
nitpick_ignore = [  # in signatures only: bases, type variables, what users do not make themselves
    ("py:class", f"pyconv.{name}")
    for name in (
        "data.preprocess.WholeImage",
        "layers._PyConvNd",
        "models.factories.F",
        "models.factories.Factory",
        "speed.inference.M",
        "speed.prepared.Frozen",
        "system.processes.World",
    )
]
NOTHING = HERE / "_build" / "nothing.inv"
NOTHING.parent.mkdir(exist_ok=True)
NOTHING.write_bytes(
    b"# Sphinx inventory version 2\n# Project: none\n# Version: 0\n"
    b"# The remainder of this file is compressed using zlib.\n" + zlib.compress(b"")
)
intersphinx_timeout = 5
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", (None, str(NOTHING))),
    "torch": ("https://docs.pytorch.org/docs/stable", (None, str(NOTHING))),
    "torchvision": ("https://docs.pytorch.org/vision/stable", (None, str(NOTHING))),
}

# The tutorials: scripts that are run for every build, and shown as pages and as notebooks.
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "pages.TutorialOrder",
    "image_scrapers": "pages.figures",
    "capture_repr": (),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "remove_config_comments": True,
    "copyfile_regex": r".*\.md",
}
