"""Write the help texts of all commands into `texts/`."""

from speechssl.cli.help import TEXTS, text_path
from speechssl.cli.help.describe import commands, described


def main() -> None:
    """Also removes those of commands that are no more."""
    wanted = {text_path(command.split()): described(command) for command in commands()}
    for path in set(TEXTS.glob("*.json")) - set(wanted):
        path.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
