"""Readable, invented names: people judge candidate sets by name on a page."""

from typing import NamedTuple

import numpy as np


class Cluster(NamedTuple):
    """A taste: a genre of music, a topic of talk, and words that betray both."""

    genre: str
    subgenres: tuple[str, ...]
    topic: str
    words: tuple[str, ...]


def _cluster(genre: str, subgenres: str, topic: str, words: str) -> Cluster:
    return Cluster(genre, tuple(subgenres.split(", ")), topic, tuple(words.split()))


CLUSTERS = (
    _cluster("indie folk", "acoustic, singer-songwriter", "hiking and the outdoors",
             "Cedar Lantern Porch River Moss Cabin Fiddle Hollow"),
    _cluster("techno", "minimal techno, acid", "machines and robotics",
             "Circuit Modular Strobe Voltage Warehouse Pulse Hertz Concrete"),
    _cluster("hip hop", "boom bap, trap", "city life",
             "Cipher Corner Block Hustle Mixtape Crown Sidewalk Stoop"),
    _cluster("jazz", "bebop, cool jazz", "art history",
             "Saxophone Smoke Lamplight Brass Swing Midtown Mezzanine Bluebird"),
    _cluster("black metal", "doom metal, death metal", "myths and folklore",
             "Raven Frost Abyss Iron Tomb Wrath Obsidian Thunder"),
    _cluster("dance pop", "synth pop, electropop", "celebrity news",
             "Glitter Heartbeat Neon Mirrorball Sugar Confetti Tonight Lipstick"),
    _cluster("baroque", "chamber music, early music", "music theory",
             "Sonata Minuet Harpsichord Fugue Cantata Ricercar Adagio Gallery"),
    _cluster("country", "bluegrass, americana", "farming and food",
             "Tractor Whiskey Bootheel Gravel Prairie Saddle Barn Highway"),
    _cluster("reggae", "dub, dancehall", "islands and travel",
             "Island Bassline Sunrise Harbour Roots Lion Mango Tide"),
    _cluster("drum and bass", "jungle, breakbeat", "motor racing",
             "Breaker Velocity Amen Torque Subway Roller Chrome Redline"),
    _cluster("r&b", "neo soul, contemporary soul", "relationships",
             "Velvet Honey Midnight Satin Candle Slowdance Perfume Whisper"),
    _cluster("punk", "hardcore, pop punk", "politics from below",
             "Riot Gutter Safetypin Basement Skateboard Noise Spit Barricade"),
    _cluster("ambient", "drone, sleep", "sleep and meditation",
             "Drift Glacier Vapour Dusk Stillness Halo Snowfall Horizon"),
    _cluster("samba", "bossa nova, pagode", "football",
             "Carnaval Praia Tamborim Saudade Avenida Cuica Verao Botequim"),
    _cluster("city pop", "j-pop, anime", "games and manga",
             "Shinkansen Sakura Arcade Harajuku Convertible Vending Kissaten Monorail"),
    _cluster("house", "deep house, garage", "start-ups",
             "Rooftop Groove Piano Terrace Sunday Basskick Paradise Vinyl"),
    _cluster("classic rock", "blues rock, southern rock", "true crime",
             "Amplifier Thunderbird Denim Diesel Wildfire Jukebox Rattlesnake Steel"),
    _cluster("classical romantic", "orchestral, opera", "history of empires",
             "Nocturne Symphony Rhapsody Overture Elegy Concerto Waltz Serenade"),
    _cluster("latin pop", "reggaeton, bachata", "family stories",
             "Fuego Corazon Bailar Luna Medianoche Sabor Caliente Playa"),
    _cluster("shoegaze", "dream pop, slowcore", "film and photography",
             "Haze Reverb Tremolo Daydream Blur Feedback Lavender Undertow"),
    _cluster("afrobeat", "highlife, amapiano", "economics",
             "Lagos Talking Drum Savanna Marketplace Kora Harmattan Gold"),
    _cluster("children", "lullabies, sing-along", "bedtime science",
             "Pancake Teddy Rainbow Bubbles Moonbear Puddle Giggle Marmalade"),
    _cluster("film score", "video game music, cinematic", "space and physics",
             "Odyssey Starship Fanfare Kingdom Eclipse Nebula Voyage Titan"),
    _cluster("swedish indie", "visa, nordic pop", "language and words",
             "Midsommar Skargard Norrsken Vinter Spelman Fjall Kaffe Sommar"),
)  # fmt: skip
KIDS_CLUSTER = next(i for i, cluster in enumerate(CLUSTERS) if cluster.genre == "children")

_ADJECTIVES = str.split(
    "Amber Silent Golden Broken Distant Electric Paper Crooked Hidden Wandering Little Restless Scarlet Hollow "
    "Lonesome Gentle Burning Northern Faded Secret Marble Wild Sleepless Silver Tidal Borrowed Feral Patient "
    "Second Lucky Velvet Salt Copper Endless Quiet Winter Solar Plastic Ivory Emerald"
)
_NOUNS = str.split(
    "Orchard Foxes Parade Engine Garden Cathedral Sparrow Machine Ocean Letter Shadow Meadow Window Satellite "
    "Harbour Mountain Compass Lantern Tiger Cinema Orchestra Planet Kite Carousel Lighthouse Arrow Museum Valley "
    "Telegram Comet Wolves Avenue Ballroom Feather Station Pilots Theatre Canyon Mirage Heron"
)
_FEELINGS = str.split("Love Rain Fire Home Time Light Water Gold Dust Stars Sleep Silence Summer Morning Trouble Mercy")
_GERUNDS = (
    "Chasing", "Leaving", "Holding", "Counting", "Waiting for", "Running from", "Dancing with", "Dreaming of", "Losing",
    "Building", "Falling into",
)  # fmt: skip
_FIRST = {
    "US": "Maya Caleb Jolene Wyatt Harper Otis Della Marcus Ruby Silas Naomi Grant Lena Elijah June Theo Cora Dexter",
    "SE": "Astrid Elin Nils Saga Gustav Ebba Linnea Oskar Freja Viktor Alva Hedda Sixten Maja Ture Signe Arvid Ylva",
    "BR": "Joana Thiago Marisa Caio Luana Otavio Bebel Rafael Iara Davi Celia Murilo Nara Vinicius Elza Jorge Tais Ivo",
    "JP": "Haruka Ren Aoi Takumi Yui Sora Mei Kaito Hina Riku Nao Shun Emi Daichi Rin Kenta Mio Yuto",
    "": "Amara Luca Ines Karim Zofia Mateo Priya Tomas Leila Andrei Chiara Kwame Noor Pavel Carmen Idris Hanna Bruno",
}
_LAST = {
    "US": "Calloway Whitfield Mercer Langley Boone Ashford Delaney Hargrove Prescott Tully Winslow Rourke Vance Maddox",
    "SE": "Lindqvist Bergstrand Sjoholm Akerlund Nyqvist Hallberg Ekdahl Rosengren Storm Wikander Dahlin Falk Grahn",
    "BR": "Cavalcante Monteverde Figueira Azevedo Peixoto Sarmento Valadares Brandao Teles Macedo Rezende",
    "JP": "Tachibana Hoshino Kurosaki Minami Aizawa Fujimori Kisaragi Shirakawa Mochizuki Natsume Hayami Otsuki",
    "": "Okafor Moretti Novak Castellan Duarte Petrov Haddad Laurent Kovacs Mensah Silvestri Brandt Ferrer Ilves",
}  # fmt: skip
_TALK_FORMS = (
    "The {adj} {noun} Show", "{word} Talk", "Notes on {topic}", "{word} and {feel}", "The {word} Hour", "{adj} {topic}",
    "Everyday {topic}", "{first} Explains {topic}", "The {noun} Podcast",
)  # fmt: skip
_EPISODE_FORMS = (
    "The {adj} {noun}", "Why {feel} Matters", "A Talk with {first} {last}", "{word} Revisited", "Inside the {noun}",
    "{first} {last} on {feel}", "The Trouble with {feel}", "How the {noun} Was Made",
)  # fmt: skip
_BOOK_FORMS = (
    "The {noun} of {feel}", "The {adj} {noun}", "A History of {feel}", "{first}'s {noun}", "The Last {noun}",
    "{word} in Winter", "Letters from the {noun}", "The {word} Keeper",
)  # fmt: skip
_TRACK_FORMS = (
    "{word} {noun}", "{adj} {word}", "{ing} {feel}", "{feel} and {word}", "{ing} the {noun}", "{word}", "{adj} {noun}",
    "No More {feel}", "{word} {feel}", "{noun} Song", "Where the {noun} Goes", "{feel}, {feel2}", "{first}'s {word}",
)  # fmt: skip
_ALBUM_FORMS = ("{adj} {noun}", "{word} {noun}", "The {noun} Sessions", "{feel} & {word}", "{ing} {feel}", "{word}")
_ARTIST_FORMS = (
    "The {adj} {noun}", "{first} {last}", "{word} {noun}", "{first} {word}", "{adj} {word}", "{first} {last}",
    "{last} & the {noun}", "{word} Collective", "{first} {last} Trio",
)  # fmt: skip
_FORMS = {
    "artist": _ARTIST_FORMS,
    "album": _ALBUM_FORMS,
    "track": _TRACK_FORMS,
    "show": _TALK_FORMS,
    "episode": _EPISODE_FORMS,
    "book": _BOOK_FORMS,
    "person": ("{first} {last}",),
}


def compose(kind: str, cluster: np.ndarray, market: list[str], rng: np.random.Generator) -> list[str]:
    """Invent one name each.

    Args:
      kind: artist, album, track, show, episode, book or person.
      cluster: `(n,)` indices into `CLUSTERS`: the words a name is made of.
      market: whose first and last names; another market than US, SE, BR or JP has a common list.
    """
    forms = _FORMS[kind]
    dice = rng.integers(0, 2**31, (len(cluster), 9))
    return [_fill(forms, CLUSTERS[c], m, row) for c, m, row in zip(cluster.tolist(), market, dice.tolist())]


def number_repeats(names: list[str]) -> list[str]:
    """Make names unique: the second bearer of a name is `II`, later ones carry their number."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} {'II' if seen[name] == 2 else seen[name]}")
    return result


def _fill(forms: tuple[str, ...], cluster: Cluster, market: str, dice: list[int]) -> str:
    form, word, adj, noun, feel, feel2, ing, first, last = dice
    firsts, lasts = _PEOPLE.get(market, _PEOPLE[""])
    return forms[form % len(forms)].format(
        word=cluster.words[word % len(cluster.words)],
        topic=cluster.topic.title(),
        adj=_ADJECTIVES[adj % len(_ADJECTIVES)],
        noun=_NOUNS[noun % len(_NOUNS)],
        feel=_FEELINGS[feel % len(_FEELINGS)],
        feel2=_FEELINGS[feel2 % len(_FEELINGS)],
        ing=_GERUNDS[ing % len(_GERUNDS)],
        first=firsts[first % len(firsts)],
        last=lasts[last % len(lasts)],
    )


_PEOPLE = {market: (_FIRST[market].split(), _LAST[market].split()) for market in _FIRST}
