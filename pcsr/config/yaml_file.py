"""YAML without surprises: whatever two readers might understand differently is an error.

A file holds only data, of bounded size: no tags, no duplicate keys, no values that YAML 1.1 reads
as something else than they look (``yes``, ``010``, ``1:30``, dates), no unbounded nesting or
repetition.
"""

import re
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.error import MarkedYAMLError
from yaml.resolver import Resolver

MAX_BYTES = 2**18  # the largest file of the suite has 7 KB
MAX_NODES = 5_000  # keys and values, those of aliases counted wherever they are used
MAX_DEPTH = 20
MAX_KEY = 200  # characters

# libyaml, if PyYAML was built with it, is ten times as fast, but accepts tabs that PyYAML refuses.
# Files with tabs are therefore read by PyYAML, so that all machines agree on them.
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Kind of value -> how it may be written, and what to write instead.
_PLAIN = {
    "bool": ("(?i:true|false)", "write true or false, or put it in quotes"),
    "int": ("[-+]?(0|[1-9][0-9_]{0,29})", "write a decimal number, or put it in quotes"),
    "float": ("[^:]*[0-9][^:]*", "write a finite decimal number, or put it in quotes"),
    "timestamp": ("(?!)", "put it in quotes"),
}


def parse(text: str) -> Any:
    """Return what a YAML text holds: None, or mappings, sequences, text, numbers and truth values.

    Raises:
        yaml.YAMLError: the text is not YAML, or is of a kind that is refused; says where and why.
    """
    return _Loader(text).get_single_data()


def reason(error: yaml.YAMLError) -> str:
    """Return in one line what is wrong with a text, and where."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', error)}"


class _Loader(Composer, SafeConstructor, Resolver):
    """PyYAML's own composer and constructor, with limits, over the events of either parser."""

    def __init__(self, text: str) -> None:
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        parser = (yaml.SafeLoader if "\t" in text else _PARSER)(text)
        self.peek_event, self.get_event = parser.peek_event, parser.get_event
        self.check_event = parser.check_event
        self._path: list[Any] = []  # of the node at hand: keys, and places in sequences
        self._count = 0
        self._sizes: dict[int, int] = {}  # nodes that are finished, by identity -> values in them

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node within the limits; an alias counts as many values as it repeats."""
        event, before = self.peek_event(), self._count
        mark = event.start_mark
        self._path.append(getattr(index, "value", index))
        self._count += 1
        if getattr(event, "tag", None) is not None:
            raise self._refused(f"a tag ({event.tag}) is not allowed; write only the value", mark)
        if len(self._path) > MAX_DEPTH:
            raise self._refused(f"more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise self._refused(f"*{event.anchor} repeats itself without end", mark)
            self._count += self._sizes[id(node)]
        if self._count > MAX_NODES:
            raise self._refused(f"more than {MAX_NODES} values", mark)
        self._path.pop()
        self._sizes.setdefault(id(node), self._count - before)
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        pattern, remedy = _PLAIN.get(node.tag.rpartition(":")[2], (".*", ""))
        if remedy and not re.fullmatch(pattern, node.value):
            raise self._refused(f"'{node.value:.40}' is ambiguous; {remedy}", node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping without duplicate keys; `<<` may still merge a key that it has."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag.rpartition(":")[2] not in ("str", "merge") or len(key.value) > MAX_KEY:
                raise self._refused("a key must be a short text; put it in quotes", key.start_mark)
            if key.value in seen:
                raise self._refused(f"'{key.value}' is given twice; keep one", key.start_mark)
            seen.add(key.value)
        return node

    def _refused(self, problem: str, mark: Any) -> MarkedYAMLError:
        keys = ".".join(f"{key:.40}" for key in self._path if isinstance(key, str))
        return MarkedYAMLError(problem=f"{keys}: {problem}" if keys else problem, problem_mark=mark)
