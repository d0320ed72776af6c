"""What setup.cfg cannot say: README.md as the package index shows it."""

import configparser
import re
from pathlib import Path

import setuptools

HERE = Path(__file__).resolve().parent


def absolute(text, address):
    """`text` with addresses of its own repository, `address` at GitHub, in the place of relative ones."""
    raw = address.replace("https://github.com/", "https://raw.githubusercontent.com/") + "/main/"
    relative = r"(?![a-z]+:|#)"
    text = re.sub(rf"(!\[[^\]]*\]\(){relative}", rf"\1{raw}", text)
    text = re.sub(rf"((?:src|srcset)=\"){relative}", rf"\1{raw}", text)
    return re.sub(rf"(?<!!)(\[[^\]]*\]\(){relative}", rf"\1{address}/blob/main/", text)


def description():
    settings = configparser.ConfigParser()
    settings.read(HERE / "setup.cfg", encoding="utf-8")
    text, address = (HERE / "README.md").read_text(encoding="utf-8"), settings.get("metadata", "url", fallback="")
    return absolute(text, address) if address else text


if __name__ == "__main__":
    setuptools.setup(long_description=description())
