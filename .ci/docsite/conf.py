# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx's settings for the documentation site (`make docs-site`)."""

from __future__ import annotations

project = "meshops.istio"
copyright = "meshops.istio contributors"  # noqa: A001 - the name that Sphinx reads
title = html_title = "meshops.istio"
html_short_title = "meshops.istio"

extensions = ["sphinx.ext.intersphinx", "sphinx_antsibull_ext", "myst_parser"]
# Links such as page.md#a-heading, with the anchors that GitHub makes.
myst_heading_anchors = 4

default_role = "any"
highlight_language = "YAML+Jinja"
pygments_style = "ansible"

html_theme = "sphinx_ansible_theme"
html_theme_options = {"documentation_home_url": "index.html", "topbar_links": {}}
html_show_sphinx = False
html_use_index = False
html_copy_source = False
display_version = False

# Where pages of other collections are. docs_site.py writes the inventory, so a build asks no server.
intersphinx_mapping = {"ansible": ("https://docs.ansible.com/ansible/latest", "ansible.inv")}
