"""Which columns of a table are wanted, and what is said where they are not there.

A Choice is made by whoever reads a table (interactions, items); the readers of the forms ask it for the columns once
they know which there are.
"""

import re
import shlex
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from training.errors import InputError
from training.file.account import Names

ALIASES = {
    "user_id": (
        "userid", "user", "uid", "customerid", "customer", "memberid", "visitorid", "reviewerid", "profileid",
        "accountid", "sessionid", "session", "playerid", "useridx", "username", "client", "clientid", "msno",
        "viewerid", "userpseudoid", "fullvisitorid", "householdkey", "playlistid", "email", "nutzer", "benutzer",
        "kunde", "kundennummer", "kundenid", "kundennr", "utilisateur", "usuario", "cliente", "idcliente", "utente",
        "gebruiker", "klant", "пользователь", "клиент", "distinctid",
    ),
    "item_id": (
        "itemid", "item", "iid", "movieid", "productid", "product", "articleid", "asin", "parentasin", "stockcode",
        "isbn", "bookid", "trackid", "songid", "artistid", "artist", "videoid", "gameid", "appid", "sku", "newsid",
        "businessid", "recipeid", "animeid", "contentid", "postid", "locationid", "itemidx", "hotelid", "lineitemsku",
        "trackuri", "adgroupid", "artikel", "artikelnummer", "artikelid", "artikelnr", "produkt", "produktid",
        "produit", "articulo", "producto", "articolo", "prodotto", "produto", "artigo", "товар",
        "aid", "article", "id",
    ),
    "timestamp": (
        "time", "ts", "date", "datetime", "invoicedate", "tdat", "eventtime", "unixreviewtime", "createdat",
        "created", "eventtimestamp", "unixtimestamp", "timestamps", "reviewtime", "viewedat", "orderdate",
        "occurredat", "eventdate", "timestampms", "watchedat", "submitted",
        "dateadded", "transactiondate", "transactiondt", "datum", "zeit", "zeitpunkt", "zeitstempel", "bestelldatum",
        "kaufdatum", "fecha", "heure", "horodatage", "hora", "data", "dataora", "orario", "дата",
    ),
    "weight": (
        "rating", "ratings", "score", "stars", "overall", "bookrating", "reviewscore", "starrating",
    ),
    "event": (
        "eventtype", "eventname", "action", "behavior", "behaviour", "type", "interaction",
    ),
    "title": (
        "name", "productname", "prodname", "booktitle", "itemname", "movietitle", "productdisplayname",
        "titel", "bezeichnung", "artikelname", "titre", "nom", "titulo", "nombre", "titolo", "nome",
    ),
    "description": (
        "desc", "text", "detaildesc", "summary", "overview", "plot", "beschreibung",
        "descripcion", "descricao", "descrizione",
    ),
}  # fmt: skip
"""Names that other people's files have for ours, in lower case and letters alone; they are proposed, never taken."""


CLOCK = "clock"
"""Our name of the column of times of day, where the column timestamp holds the day alone: timestamp=date+time."""
PRINTED = (
    "a printed table, as print(df) writes it, or one of fixed widths; write df.to_csv('events.csv', index=False), or a "
    "tab between columns: sed -E 's/ {2,}/\\t/g' FILE > events.tsv"
)
"""What is said of a table whose columns are aligned by spaces."""
AS_LINES = "write an object a line: json.dumps(row), or df.to_json('events.jsonl', orient='records', lines=True)"
"""What is said of data that are written as lists of values, or by column."""


@dataclass(frozen=True)
class Choice:
    """The columns that are wanted of a table."""

    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the file's, where they differ
    required: Sequence[str] = ()
    optional: Sequence[str] = ()
    option: str = "--columns"  # that names columns
    others: Callable[[list[str]], Names] | None = None  # columns that are wanted under names made from the file's
    may_lack: frozenset[str] = frozenset()  # ours whose name in columns may be missing; then our own is looked for
    folders: Collection[str] = ()  # columns that the folders of a part are named after

    def needed(self) -> dict[str, str]:
        """Return our required names and what the file calls them."""
        return {ours: self.columns.get(ours, ours) for ours in self.required}

    def pick(self, label: str, present: list[str]) -> Names:
        """Return the columns to keep: our name -> the file's. Raises InputError for one that is not there."""
        names: Names = {}
        for ours in (*self.required, *self.optional):
            theirs = self.columns.get(ours, ours)
            if theirs not in present and ours in self.may_lack and ours in present:
                theirs = ours
            if theirs not in present and theirs.isdecimal() and 1 <= int(theirs) <= len(present):
                theirs = present[int(theirs) - 1]
            if theirs in present:
                names[ours] = theirs
            elif theirs in self.folders:
                continue
            elif ours in self.required or (ours in self.columns and ours not in self.may_lack):
                raise InputError(self.refusal(label, theirs, ours, present))
        if len({names.get(ours, self.columns.get(ours, ours)) for ours in self.required}) < len(self.required):
            raise InputError(
                f"{label}: two of {', '.join(self.required)} are the same column; name each its own: {self.option} "
                + ",".join(f"{ours}=COLUMN" for ours in self.required)
            )
        return names | (self.others([name for name in present if name not in names.values()]) if self.others else {})

    def of_folders(self) -> Names:
        """Return the columns that are wanted of those that folders are named after: our name -> theirs."""
        asked = {ours: self.columns.get(ours, ours) for ours in (*self.required, *self.optional)}
        names = {ours: theirs for ours, theirs in asked.items() if theirs in self.folders}
        rest = [name for name in self.folders if name not in names.values()]
        return names | (self.others(rest) if self.others else {})

    def refusal(self, label: str, theirs: str, ours: str, present: list[str], found: str | None = None) -> str:
        """Return the message that a column is missing, with the option that names the likely one."""
        if (cause := _one_column(present, self.option)) is not None:
            return f"{label}: no column {theirs!r}, because each line was read as one value: {cause}"
        if present and (found_lists := re.match(r"[\[(]\s*(?:(\[|\()|['\"\d-])", present[0])):
            return f"{label}: lists of values, as JSON or Python writes them; {_of_lists(of_all=bool(found_lists[1]))}"
        listed = ", ".join(map(shown, present[:30])) + (f", ... ({len(present)} in all)" if len(present) > 30 else "")
        if any(re.fullmatch("'.+'", name) for name in present):
            return (
                f"{label}: no column {theirs!r}; the file has: {listed}. Where ' stands for quotes: "
                f'--set {_setting(self.option, "quote")}="\'"'
            )
        proposed = {name: value for name, value in self.columns.items() if value in present}
        for name in (*self.required, *self.optional):
            if name in ("user_id", "item_id", "timestamp") and self.columns.get(name, name) not in present:
                free = [column for column in present if column not in proposed.values()]
                likely = found if found is not None and name == ours else propose(name, free)
                if likely is not None:
                    proposed[name] = likely
        for name in (*self.required, ours):
            if name == ours or (name not in self.columns and name not in present):
                proposed.setdefault(name, "COLUMN")
        if CLOCK in proposed:
            proposed["timestamp"] = f"{proposed.get('timestamp', 'COLUMN')}+{proposed.pop(CLOCK)}"
        given = {name: _as_given(value, present) for name, value in proposed.items()}
        way_out = ",".join(f"{name}={given[name]}" for name in sorted(proposed, key=[*ALIASES, *proposed].index))
        return (
            f"{label}: no column {theirs!r}; the file has: {listed or 'none'}. Name the right one: "
            f"{self.option} {shlex.quote(way_out)}"
        )


def shown(name: str) -> str:
    """Return a name for a message: what is no text, or has no end, is cut."""
    plain = "".join(sign if sign.isprintable() else "?" for sign in name[:60])
    return plain + ("..." if len(name) > 60 else "")


def _of_lists(*, of_all: bool) -> str:
    """Return the command that writes objects of lists: of each line, or of all in one."""
    rows = "ast.literal_eval(open('FILE').read())" if of_all else "map(ast.literal_eval, open('FILE'))"
    program = f"[print(json.dumps(dict(zip(names, row)))) for row in {rows}]"
    return (
        'write objects, with names in their order: python -c "import ast, json; '
        f"names = ['user_id', 'item_id', 'timestamp']; {program}\" > events.jsonl"
    )


def _as_given(name: str, present: Sequence[str]) -> str:
    """Return a column as an option takes it: its place where its name has a comma, or is empty."""
    return str(present.index(name) + 1) if name in present and ("," in name or not name) else name


def _setting(option: str, name: str) -> str:
    return f"prepare.{name}" if option == "--columns" else f"prepare.item_{name}"


def _one_column(present: Sequence[str], option: str) -> str | None:
    """Return why a file has a single column whose name is several names, and the way out; None where it has not."""
    if len(present) != 1:
        return None
    (name,) = present
    if name.startswith("{"):
        program = "import json; [print(json.loads(line)) for line in open('FILE')]"
        return f'it is JSON, quoted as a whole; take the quotes away: python -c "{program}" > events.jsonl'
    if "\\t" in name:
        return r"a backslash and a t stand for tabs: sed 's/\\t/\t/g' FILE > events.tsv"
    if re.search(r"[,;\t|]", name):
        return "it is quoted as a whole; take the outer quotes away: sed -E 's/^\"(.*)\"$/\\1/' FILE > OTHER"
    if re.search(r"\S\s{2,}\S|\S \S", name):
        return PRINTED
    between = set(re.findall(r"(?<=\w)[^\w\s.-]+(?=\w)", name))
    if len(between) == 1 and len(name) < 1000:
        delimiter = shlex.quote(next(iter(between)))
        return f"fields may stand between {delimiter}: --set {_setting(option, 'delimiter')}={delimiter}"
    return None


def propose(ours: str, present: Sequence[str]) -> str | None:
    """Return the column that is most likely meant by one of our names, or None.

    Where no name is known, what stands behind its last point may be, or before its first, or between: events.user_id,
    time.ts, user_id.value, Item.user_id.S.
    """
    known = [_letters(ours), *ALIASES.get(ours, ())]
    for names in (known[:-1], known[-1:]) if known[-1] == "id" else (known,):  # an id alone may be of anything
        for plain in (
            {_letters(name): name for name in reversed(present)},
            _last_parts(present),
            _first_parts(present),
            _middle_parts(present),
        ):
            found = next((plain[name] for name in names if name in plain), None)
            if found is not None:
                return found
    return None


def _last_parts(present: Sequence[str]) -> dict[str, str]:
    """Return names by what stands behind their last point, unless everything has that: an id, a name."""
    parts = {_letters(name.rpartition(".")[2]): name for name in reversed(present) if "." in name}
    return {part: name for part, name in parts.items() if part not in ("id", "name", "type", "text")}


def _first_parts(present: Sequence[str]) -> dict[str, str]:
    """Return names by what stands before their first point, where no other has that."""
    firsts = [name.partition(".")[0] for name in present]
    return {_letters(part): name for part, name in zip(firsts, present, strict=True) if firsts.count(part) == 1}


def _middle_parts(present: Sequence[str]) -> dict[str, str]:
    """Return names by what stands between their points, where no other has that."""
    parts = [(_letters(part), name) for name in present for part in name.split(".")[1:-1]]
    return {part: name for part, name in parts if [each for each, _ in parts].count(part) == 1}


def _letters(name: str) -> str:
    """Return the letters and digits of a name in lower case, without accents."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", name.lower())))
