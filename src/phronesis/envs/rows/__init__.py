"""Tasks as data: the environment `rows`, and `read` for worlds of one's own."""

from phronesis.envs.rows.env import make
from phronesis.envs.rows.files import Row, read_file
from phronesis.envs.rows.folders import find_files
from phronesis.envs.rows.judge import CHEATS, JUDGES
from phronesis.envs.rows.source import Rows, Source, content_key, normal, read

__all__ = ["CHEATS", "JUDGES", "Row", "Rows", "Source", "content_key", "find_files", "make", "normal", "read", "read_file"]
