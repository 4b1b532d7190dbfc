"""Which subject a standard library module belongs to, after the chapters of Python's library reference."""

from __future__ import annotations

CHAPTERS: dict[str, str] = {
    "async": "asyncio asyncore asynchat",
    "binary": "struct codecs encodings binascii base64 quopri uu",
    "compression": "zlib gzip bz2 lzma zipfile tarfile _compression compression shutil",
    "concurrency": "threading multiprocessing concurrent subprocess sched queue contextvars _dummy_thread "
    "_threading_local _thread signal",
    "cryptography": "hashlib hmac secrets crypt ssl getpass",
    "data types": "datetime _pydatetime zoneinfo calendar collections heapq bisect array weakref _weakrefset "
    "types copy pprint reprlib enum graphlib _collections_abc _strptime _py_abc dataclasses",
    "debugging": "bdb faulthandler pdb timeit trace tracemalloc cProfile profile pstats cgitb _pyrepl "
    "_colorize profiling",
    "email": "email mailbox mailcap mimetypes smtplib smtpd imaplib poplib nntplib",
    "file formats": "csv configparser tomllib netrc plistlib json xdrlib string.templatelib",
    "files": "pathlib posixpath ntpath genericpath fileinput stat filecmp tempfile glob fnmatch linecache "
    "_ios_support",
    "functional": "itertools functools operator contextlib",
    "graphical interfaces": "tkinter turtle cmd shlex curses idlelib readline rlcompleter",
    "importing": "zipimport pkgutil modulefinder runpy importlib imp",
    "internet": "urllib http ftplib wsgiref webbrowser socketserver xmlrpc cgi telnetlib uuid ipaddress",
    "language reference": "pydoc_data",
    "language tools": "ast symtable token keyword tokenize tabnanny pyclbr py_compile compileall dis opcode "
    "pickletools lib2to3 _opcode_metadata",
    "logging": "logging warnings traceback _py_warnings",
    "markup": "html xml _markupbase",
    "media": "wave colorsys aifc sunau chunk imghdr sndhdr audioop",
    "networking": "socket select selectors mmap",
    "numbers": "numbers math cmath decimal _pydecimal _pylong fractions random statistics",
    "operating system": "os io _pyio time argparse getopt optparse platform errno ctypes pty tty pipes "
    "nturl2path _osx_support _aix_support _apple_support _android_support locale gettext",
    "packaging": "distutils ensurepip venv zipapp",
    "persistence": "pickle copyreg shelve marshal dbm sqlite3 _compat_pickle",
    "runtime": "sys sysconfig builtins abc atexit gc inspect site code codeop __future__ _sitebuiltins "
    "_bootsubprocess _sysconfigdata annotationlib",
    "testing": "unittest doctest",
    "text": "string re difflib textwrap unicodedata stringprep sre_compile sre_constants sre_parse",
    "typing and documentation": "typing pydoc",
}
REST = "other"

_CHAPTER_OF = {module: chapter for chapter, modules in CHAPTERS.items() for module in modules.split()}


def chapter_of(module: str) -> str:
    """The subject of a dotted module name; of a private module, that of the public one it stands behind."""
    top = module.partition(".")[0]
    return _CHAPTER_OF.get(top) or _CHAPTER_OF.get(top.lstrip("_"), REST)
