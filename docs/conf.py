"""Configuration of the documentation site: `make docs`."""

import sys
from pathlib import Path

import spangym

sys.path.insert(0, str(Path(__file__).parent / "_ext"))


project = "spangym"
author = "The spangym developers"
copyright = author  # noqa: A001
release = spangym.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "docstrings",
    "generated_pages",
]
exclude_patterns = ["_*", "**.ipynb_checkpoints"]

# Every reference is checked. A name in single backticks is a link if the site documents it, and
# code otherwise. Types of other packages are not linked: the site is built offline.
nitpicky = True
# Options such as `--seeds` keep their dashes.
smartquotes = False
default_role = "py:obj"
nitpick_ignore_regex = [
    ("py:obj", r".*"),
    ("py:.*", r"(?!spangym\.).*"),
    # Results and attributes that are not meant for users.
    ("py:class", r"spangym\.experiments\.studies\.foreign_env\.ForeignEnv"),
    ("py:class", r"spangym\.envs\.transition\.TransitionModel"),
    ("py:class", r"spangym\.attention\.layers\.local_global\.PreparedInput"),
    ("py:class", r"spangym\.envs\.state\.Prepared"),
    ("py:class", r"spangym\.envs\.model\.block_cache\.BlockCache"),
]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
# Notebooks are executed whenever their page is read; nothing is loaded from the network.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
# Notebooks write files.
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_ipywidgets_js = {}

html_theme = "furo"
html_title = "spangym"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_logo = html_favicon = "_static/logo.svg"
html_copy_source = False
html_show_sphinx = False
# Only commands are copied, without the prompt and what they print.
copybutton_exclude = ".linenos, .gp, .go"
