"""The commands of README and docs, run as they are typed, in a scratch folder that holds what they name.

python -m tests.documented                        # all pages, with what is passed over and why
python -m tests.documented README.md docs/using/grid.md
"""
