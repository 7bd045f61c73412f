"""Tools that worlds give to a policy. Each is made for one episode; effects are declared."""

from phronesis.tools.calculator import calculate, evaluate
from phronesis.tools.python import PythonTool
from phronesis.tools.search import Corpus, Page, SearchTools
from phronesis.tools.shell import FileTools, ShellTool
from phronesis.tools.sql import SqlTools

__all__ = ["Corpus", "FileTools", "Page", "PythonTool", "SearchTools", "ShellTool", "SqlTools", "calculate", "evaluate"]
