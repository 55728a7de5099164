"""Words and identifiers, each permanently assigned to train, validation or held-out.

The idioms use train words only, so a task pair of another split has names that no idiom has. The tokenizer splits such
names into unusual tokens. So that the model knows these tokens in every role of a name, some train names are invented,
from syllables.
The split depends only on the root of a word (`Order`, `orders` and `order.txt` have the root `order`). So a name has
the same split in every kind of word, and a new word does not change the split of another.
"""

from functools import cache
from keyword import iskeyword
from random import Random
from typing import Literal, get_args
from zlib import crc32

from thinwire.errors import UserError

Split = Literal["train", "validation", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)
HELDOUT_SEED = 0
"""Seed of the held-out pairs, whatever the seed of a run: pruning and the checks report on one draw of them."""

_WORDS: dict[str, str] = {
    "word": """
        able above acid across active afraid after again age ago air almost alone along amber angry animal answer apple
        apron arm arrow ash aunt autumn awake away axle baby back bacon bad bag ball banana band bank barn basket bath
        beach bean bear beard bed bee before bell belt bench berry better bird biscuit black blanket blue boat body bone
        book boot bottle bowl brain branch brave bread breeze brick bridge bright broom brother brown brush bucket
        bunny bush butter button cabin cake calm camel camp candle candy cap car card carpet carrot castle cat cave
        chair chalk cheap cheese cherry chest chicken child chin church circle city clay clean clear clever cliff cloak
        cloud clover coal coast coat coin cold corn cotton cough cousin cow crab cream crow crown cup curtain dance
        dark daughter dawn day deer desert dinner dirt dish doctor dog door dough dove dragon dream dress drum dry duck
        dust eagle ear early earth east easy egg elbow empty evening eye face fair family fan far farm fast father
        feather fence fern fever few finger fire fish flag flame flour flower fog food foot forest fork fox fresh
        friend frog fruit full funny fur garden garlic gate gentle ghost giant gift glad glass glove goat gold good
        goose grain grandma grape grass gray great green guitar hair hammer hand happy hard harbor hat hay heart heavy
        hedge hello helmet hen hill holiday honey hook horn horse hot house hungry ice ink iron island ivory jacket
        jam jar jelly juice jungle kettle kind king kitchen kite kitten knee knife ladder lake lamb lamp large late
        lazy leaf leather lemon letter light lily lion lip little long loud lovely lucky lunch maple market meadow meal
        meat melon metal milk mint mirror mitten money monkey moon morning moss mother mountain mouse mouth mud
        mushroom music nail narrow neck needle nest new nice night noise noon north nose nut oak ocean old olive onion
        orange orchard oven owl paint palace palm pan paper parent park parrot party pasta peace peach pear pearl
        pepper piano picnic pie pig pillow pilot pine pink plain plane plum pocket pond pony poor potato pretty prince
        proud puppy purple quick quiet rabbit rain raven ready red rice rich ring river road robin rock roof rope rose
        round sad sail salt sand school sea sharp sheep shell ship shirt shoe shop shore short shy silk silver simple
        sister skin sky sleep slow small smoke smooth snail snow soap sock soft soup south spider spoon spring square
        squirrel star stone storm straw strong sugar summer sun sweet swim table tail tall tea tent thick thin thread
        tiger tired toast tooth tower town toy train tree turtle uncle valley velvet village violin wagon wall warm
        water wave weak welcome well west wet wheat wheel white wide wild wind window wing winter wise wolf wood wool
        yellow young zebra""",
    "variable": """
        account amount angle area balance batch block buffer cell chunk column cost count depth digest digit distance
        edge entry event factor field final frame group height index item kernel label layer length level limit line
        mark mass match message metric minimum node number offset option output page pair part path period phase pixel
        point position price product queue rank rate ratio reading record region reply report result row sample scale
        score section segment shift size slot source span speed stage state step stock summary symbol target task
        temperature text threshold ticket time title token total trace unit update user value vector version view
        volume weight width""",
    "collection": """
        accounts actions agents arrays badges bands batches blocks boards boxes branches cells chains chapters charts
        chunks colors columns counts days digits edges entries events fields files forms frames games groups hosts
        hours images items jobs keys labels layers lessons letters lines links lists logs marks matches messages models
        modules months names nodes notes numbers orders packets pages pairs parts paths players points prices quotes
        ranks readings records regions replies reports results rows rules samples scores sections signals sizes slots
        sources stages states stations steps students symbols tables tags tasks teams terms tests tickets titles tokens
        tools topics traces units users values vectors versions views visits votes weights zones""",
    "function": """
        accept adjust align apply arrange assign attach balance blend bound build cache check choose clamp clean clear
        clip close collect combine commit compare compute connect convert copy create decode define deliver describe
        detect divide draw drop emit encode estimate expand export extract fetch fill find finish flatten fold
        gather handle hide insert inspect invert join launch load lookup measure merge move notify parse patch
        pick plan prepare process publish pull push read receive reduce refresh register release remove render repeat
        replace reset resolve restore rotate run sample save scan schedule search select send shuffle sort split start
        store stretch submit swap trim unpack update upload validate verify wait warn wrap write""",
    "class": """
        Account Action Address Agent Archive Basket Battery Board Buffer Builder Camera Canvas Cell Channel Circle
        Client Clock Cluster Command Config Contract Counter Course Cursor Customer Device Dialog Document Driver
        Editor Employee Engine Event Factory Field Folder Game Garden Graph Group Handler House Image Invoice Item
        Journal Journey Layer Ledger Library Machine Manager Market Matrix Menu Message Model Monitor Motor Node Order
        Package Painter Parcel Parser Patient Payment Person Planet Player Point Printer Product Profile Project Queue
        Reader Record Rectangle Report Robot Route Sample Scanner Schedule School Screen Sensor Server Session Shape
        Shelf Signal Station Student Table Teacher Team Ticket Timer Token Tracker Tunnel User Vehicle Vessel Wallet
        Widget Window Worker Writer""",
    "attribute": """
        active address age alias author body border bottom capacity category center code color comment content country
        created currency data date default delay description direction duration email enabled failed finished flags
        folder format gender handle hidden host image kind language left legs location locked margin maximum members
        minutes mode month name nickname note order origin owner parent phone port priority quality quantity radius
        ready right role salary seconds shape side status street style subject surname tag theme top url valid
        visible wheels year zoom""",
    "file": """
        actions backup budget calendar catalog census config contacts countries data diary drafts errors events expenses
        history inventory invoices journal keys labels ledger letters links log members menu messages metrics names
        notes numbers orders pages payments people photos plan players poems prices profile quotes recipes records
        report results sales schedule scores settings songs stats stories students summary survey table tasks temp
        tickets users values visits votes weather words""",
}
KINDS = tuple(_WORDS)
_SYLLABLES = {
    "onset": "b br c ch cl d dr f fl g gr h j k l m n p pl pr qu r s sc sh sl sp st t th tr v w y",
    "vowel": "a e i o u a e i o u ai ea ee io oo ou",
    "ending": "a b ck d er ge ce le me ne re se te l m n nd nt r ry rt s st t th ty y on al el ow age ent ion",
}
"""The parts of invented words."""


def root(word: str) -> str:
    """The root of a word, which determines its split: its lower-case form without a plural `s`."""
    return word.lower().removesuffix("s")


def split_of(word: str) -> Split:
    """The split a word belongs to: 60% train, 20% validation, 20% held-out."""
    share = crc32(root(word).encode()) % 10
    return "train" if share < 6 else "validation" if share < 8 else "heldout"


@cache
def words(kind: str, split: Split) -> tuple[str, ...]:
    """The words of one kind (see KINDS) and split, in listed order. Raises UserError for an unknown kind or split."""
    if kind not in _WORDS:
        raise UserError(f"There is no kind of word called '{kind}'; use one of {', '.join(KINDS)}.")
    if split not in SPLITS:
        raise UserError(f"There is no split called '{split}'; use one of {', '.join(SPLITS)}.")
    return tuple(word for word in dict.fromkeys(_WORDS[kind].split()) if split_of(word) == split)


@cache
def _syllables() -> tuple[list[str], list[str], list[str]]:
    return _SYLLABLES["onset"].split(), _SYLLABLES["vowel"].split(), _SYLLABLES["ending"].split()


def invent(rng: Random) -> str:
    """A pronounceable word of up to three syllables that belongs to the train split."""
    onsets, vowels, endings = _syllables()
    while True:
        stem = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.randint(1, 2)))
        word = stem + rng.choice(endings)
        if len(word) > 3 and split_of(word) == "train" and not iskeyword(word):
            return word
