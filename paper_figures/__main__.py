"""`python -m paper_figures` rebuilds every table and figure."""

from paper_figures.build import main

main()
