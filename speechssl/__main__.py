"""`python -m speechssl` is the `speechssl` command."""

from speechssl.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
