# SPDX-License-Identifier: GPL-2.0
#
# Sphinx: "make htmldocs" at the top of the tree.

project = 'espintcp'
author = 'The espintcp developers'
copyright = author

exclude_patterns = ['_build']
highlight_language = 'none'
html_theme = 'alabaster'
html_theme_options = {
    'description': 'IKE and ESP over one TCP connection (RFC 9329)',
    'fixed_sidebar': True,
}
