"""One HTML page about one run or several: scripts/report.

`folder.py` reads a work directory, whatever of it is there; `curves.py`, `speed.py`, `spent.py`, `facts.py`,
`settings.py`, `checks.py` and `galleries.py` make of it what is shown; `making.py` puts that into page.html, with
page.css and page.js inside. The page asks nothing of any network, and what is shown of a run is text to it, never HTML.
"""
