"""Filling templates: `<v>`, `<p>`, `<list>` … become names, phrases and literals of one split.

| slot | becomes | slot | becomes |
|---|---|---|---|
| `<v>` | variable | `<q>` | the quote in use |
| `<c>` | collection | `<s>` | quoted phrase |
| `<f>` | function | `<n>` | number |
| `<C>` | class | `<list>` | numbers joined by commas |
| `<a>` | attribute | `<call>` | what stands before the parenthesis of a call |
| `<file>` | file name | `<say>` | a statement of one line |
| `<p>` | phrase of one to four words | `<w>` | word |

A digit after the name tells slots apart: `<v>` and `<v2>` differ in one scene, `<v>` and `<v>` are the same.
Slots that the table does not name stay as they are.
"""

import random
import re
from dataclasses import dataclass, field

from thinwire.data.words import Split, invent, words

SLOT = re.compile(r"<([A-Za-z]+)([0-9]?)>")
NAMES = {"v": "variable", "c": "collection", "f": "function", "C": "class", "a": "attribute", "w": "word"}
P_INVENTED = 0.4
"""Share of names and words of the train split that are invented rather than listed."""
FRESH = {"say", "call"}
"""Slots that are drawn anew each time they occur; all others keep their value within a scene."""

CALLS = ("print", "print", "<f9>", "<c9>.append", "<v9> = <f9>", "log.<f9>")
SAYS = (
    *["<call>(<q><p9><q>)"] * 5,
    "<v9> = <s9>",
    "<v9> = <n9>",
    "<v9> = <c9>[<n9>]",
    "print(<v9>)",
    "<v9>.<f9>()",
    "<f9>(<v9>, <v8>)",
    "<v9>.<a9> = <v8>",
)


@dataclass
class Scene:
    """The names, quote and randomness that one piece of text is written with."""

    rng: random.Random
    split: Split
    quote: str = '"'
    filled: dict[str, str] = field(default_factory=dict)

    def fill(self, template: str) -> str:
        """The template with every slot replaced; slots of one name get one value for the life of the scene."""
        return SLOT.sub(self._slot, template)

    def pick(self, templates: tuple[str, ...]) -> str:
        """One of the templates, filled."""
        return self.fill(self.rng.choice(templates))

    def _slot(self, match: re.Match[str]) -> str:
        kind, label = match.group(1), match.group(0)
        if kind in FRESH:
            inner = Scene(self.rng, self.split, self.quote)
            return inner.pick(CALLS if kind == "call" else SAYS)
        if kind == "q":
            return self.quote
        if label not in self.filled:
            value = self._draw(kind)
            while kind in NAMES and value in self.filled.values():
                value = self._draw(kind)
            if value is None:
                return label
            self.filled[label] = value
        return self.filled[label]

    def _draw(self, kind: str) -> str | None:
        if kind in NAMES:
            return self._name(NAMES[kind])
        match kind:
            case "p":
                return self.phrase(1, 4)
            case "s":
                return self.quote + self.phrase(1, 3) + self.quote
            case "n":
                return str(self.rng.randrange(30))
            case "list":
                return self.numbers(2, 6)
            case "file":
                return self._name("file") + self.rng.choice((".txt", ".csv", ".json"))
        return None

    def _name(self, kind: str) -> str:
        if self.split != "train" or self.rng.random() >= P_INVENTED:
            return self.rng.choice(words(kind, self.split))
        word = invent(self.rng)
        return word.capitalize() if kind == "class" else word

    def phrase(self, fewest: int, most: int) -> str:
        """Words joined by spaces; nothing in them tells the quotes around them."""
        return " ".join(self._name("word") for _ in range(self.rng.randint(fewest, most)))

    def numbers(self, fewest: int, most: int) -> str:
        """Numbers below 30 joined by commas."""
        return ", ".join(str(self.rng.randrange(30)) for _ in range(self.rng.randint(fewest, most)))
