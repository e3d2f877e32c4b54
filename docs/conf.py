"""Sphinx's settings."""

project = "pyramid_limitedsession"
copyright = "2026, the pyramid_limitedsession developers"
author = "the pyramid_limitedsession developers"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
exclude_patterns = ["_build"]
html_theme = "alabaster"
