"""XML as annotation tools write it: in the encoding that it declares, or in another than that.

A document type is refused (entity expansion).
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Collection

DECLARED = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})["']""")
TEXT = re.compile(r"(utf|us-ascii|ascii|iso|latin|windows|cp|gb|big5|euc|shift|sjis|koi|mac|hz|johab|ks)")
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
         (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))
# tried in this order where the declared encoding does not fit
OTHERS = ("utf-8", "gb18030", "cp1252", "cp932", "cp949", "big5", "cp1251", "latin-1")
SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "latin-1": "cp1252", "us-ascii": "utf-8"}


def parse_xml(content: bytes, known: Collection[str] = ()) -> tuple[ET.Element, str]:
    """The root, and "" or how the file was read where not in its own encoding. known: class names; an encoding in
    which all class names of the file are known is preferred to the declared one. Raises `ET.ParseError`.
    """
    declared, mark = _encodings(content)
    first: tuple[ET.Element, str] | None = None
    problem = ET.ParseError("in no encoding that is tried")
    for encoding in dict.fromkeys((mark or _superset(declared or "utf-8"), *(() if mark else OTHERS))):
        try:
            text = content.decode(encoding)
            root = _root(text)
        except (LookupError, UnicodeError):
            continue
        except ET.ParseError as error:
            if first is None and encoding in (mark, "utf-8"):
                problem = error
            continue
        note = "" if mark or encoding == _superset(declared or "utf-8") else (
            f"{f'declares {declared}' if declared else 'declares no encoding'}, read as {encoding}; save it as UTF-8")
        first = first or (root, note)
        if not known or text.isascii() or _class_names(root) <= set(known):
            return root, note
    if first is None:
        raise problem
    return first


def _encodings(content: bytes) -> tuple[str, str]:
    """The declared encoding and the one that the first bytes show, each "" where there is none."""
    mark = next((name for start, name in MARKS if content.startswith(start)), "")
    found = DECLARED.match(content[:300])
    declared = found[1].decode() if found and not mark else ""
    return declared, mark


def _superset(declared: str) -> str:
    """The encoding that tools mean by a name. Without zero bytes UTF-16 is a false claim, as .NET makes it."""
    name = declared.lower().replace("_", "-")
    return SUPERSETS.get(name, name) if TEXT.match(name) and not name.startswith(("utf-16", "utf-32")) else "utf-8"


def _root(text: str) -> ET.Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ET.ParseError("has a document type; VOC files need none")
    try:
        return ET.fromstring(text.lstrip("\ufeff \t\r\n"))
    except (ValueError, RecursionError) as error:
        raise ET.ParseError(str(error)) from None


def _class_names(root: ET.Element) -> set[str]:
    return {(name.text or "").strip() for name in root.iterfind("object/name")}
