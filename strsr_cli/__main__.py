"""`python -m strsr_cli` is `strsr`."""

from .app import app

if __name__ == "__main__":
    app(prog_name="strsr")
