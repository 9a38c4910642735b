"""What is fetched, as data: where from, at which revision, how large, with which hash, under which licence, what for.

Covers the models, CounterFact, the known facts, LRE, the authors' relation data, the published second moments and
MEND's published weights; and the embedded world, which comes with the package. Fetching is fetch.py's. The embedded
world is not evidence for or against the paper: its editing site is installed by training.

A hash that no source publishes is recorded when the file is first fetched and enforced from then on (lock.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from artifact.errors import FactError

ESTIMATE = 3
"""A file of which only an estimate of the size is known is at most this many times as large."""
_DATA = Path(__file__).parents[1] / "facts" / "data"
SMALL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Configuration and tokenizer of a hub's model: which of them it has differs by model."""
WORLD = _DATA / "world"
"""Folder of the embedded world: model, tokenizer, facts."""
MASKED_WORLD = _DATA / "world-masked"
"""Folder of its masked twin, an encoder: model and tokenizer."""
WORLDS: Mapping[str, Path] = {folder.name: folder for folder in (WORLD, MASKED_WORLD)}
NEW_FACTS = _DATA / "new.json"
"""Two records with every field, to fill in: `kloc facts new`."""


def own_network(model: str) -> Path | None:
    """MEND's network that comes with the package for a model: the world's, of `kloc mend-train --model world --half`,
    and SmolLM2's, of facts set aside; None for any other.
    """
    path = _DATA / f"mend-{model}.safetensors"
    return path if model.isidentifier() and path.is_file() else None


@dataclass(frozen=True, kw_only=True)
class _Sized:
    """A file of `size` bytes, about that many unless `exact`; `sha256` is its hash where the source gives one."""

    size: int
    exact: bool
    sha256: str | None = None

    @property
    def most(self) -> int:
        """Most bytes that it may have."""
        return self.size if self.exact else ESTIMATE * self.size


@dataclass(frozen=True, kw_only=True)
class HubModel(_Sized):
    """A model on the hub at a pinned revision. `files` is all that is downloaded, `weights` the big one, which `size`
    and `sha256` are of; `hashes` are those of the configuration and the tokenizer.
    """

    name: str
    repo: str
    revision: str
    weights: str
    hashes: Mapping[str, str]
    exact: bool = True
    licence: str
    citation: str
    purpose: str

    @property
    def files(self) -> tuple[str, ...]:
        """The weights in one format, the configuration and the tokenizer; repositories hold many duplicates beside."""
        return (self.weights, *SMALL_FILES)

    @property
    def needed(self) -> tuple[str, ...]:
        """The files without which it cannot be loaded; of the others a repository holds some."""
        return self.weights, "config.json", "tokenizer.json"

    def size_of(self, name: str) -> int | None:
        """The size that a file must have; None where it is not known."""
        return self.size if self.exact and name == self.weights else None

    def most_of(self, name: str | None, small: int) -> int:
        """Most bytes of a file, `small` of those beside the weights and of a listing (None)."""
        return self.most if name == self.weights else small

    @property
    def pickled(self) -> bool:
        """Whether the weights are a pickle, which is read as tensors alone and converted to safetensors once."""
        return self.weights.endswith(".bin")


@dataclass(frozen=True, kw_only=True)
class PlainFile(_Sized):
    """One file of a file host: `urls` in the order they are tried."""

    name: str
    urls: tuple[str, ...]
    exact: bool = False


@dataclass(frozen=True, kw_only=True)
class ArchiveMember:
    """A file that is taken out of an archive and kept as `name`, known to the rest of the house as `key`; at most
    `limit` bytes. It is found by its records, which hold the fields of `needs`, whatever it is called in the archive;
    an `optional` one may be missing.
    """

    key: str
    name: str
    limit: int
    needs: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class PlainSource:
    """Files that belong together. `members` are taken out of the one archive among them.

    `other_bytes` says where the same content lies in a form that cannot have the same hash; it is not fetched.
    `instead` says how to run without it.
    """

    name: str
    files: tuple[PlainFile, ...]
    members: tuple[ArchiveMember, ...] = ()
    licence: str
    citation: str
    purpose: str
    other_bytes: str | None = None
    instead: str | None = None

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def exact(self) -> bool:
        return all(file.exact for file in self.files)


Source = HubModel | PlainSource

_ROME = "Meng et al., Locating and Editing Factual Associations in GPT, NeurIPS 2022"
_MEND = "Mitchell et al., Fast Model Editing at Scale, ICLR 2022"
_ROME_LICENCE = "MIT (kmeng01/rome)"
_HOST = "https://rome.baulab.info/data"
_RAW = "https://raw.githubusercontent.com"
_RAKE = f"{_RAW}/weiyifan1023/RaKE/main"


_GPT2_TOKENIZER = {
    "tokenizer.json": "8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6",
    "tokenizer_config.json": "5e04eb606e3a1583530a42e36c2a6b6615c86f34fe77e44d9ddeb43ff940931f",
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
"""Of every size of GPT-2. The hub publishes no hash of small files: these are what others recorded of the pinned
revisions, two or more of them alike. vocab.json and merges.txt are OpenAI's encoder.json and vocab.bpe."""


def _gpt2(name: str, revision: str, size: int, sha256: str, config: str, purpose: str) -> HubModel:
    """A size of GPT-2 as its authors' page on the hub has it."""
    return HubModel(
        name=name,
        repo=f"openai-community/{name}",
        revision=revision,
        weights="model.safetensors",
        size=size,
        sha256=sha256,
        hashes={"config.json": config, **_GPT2_TOKENIZER},
        licence="MIT",
        citation="Radford et al., Language Models are Unsupervised Multitask Learners, 2019",
        purpose=purpose,
    )


HUB_MODELS = {
    model.name: model
    for model in (
        _gpt2(
            "gpt2",
            "607a30d783dfa663caf39e06633721c8d4cfcd7e",
            548_105_171,
            "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
            "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4",
            "smoke runs; not a model of the paper",
        ),
        _gpt2(
            "gpt2-xl",
            "15ea56dee5df4983c59b2538573817e1667135e2",
            6_431_829_964,
            "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
            "be48115d52314bc27327e160bf10197760db02ea689d10adb24db4102edf7a8a",
            "Tables 1 and 2, Figures 2 and 3",
        ),
        HubModel(
            name="gpt-j",
            repo="EleutherAI/gpt-j-6b",
            revision="47e169305d2e8376be1d31e765533382721b2cc1",
            weights="pytorch_model.bin",
            size=24_207_819_307,
            sha256="0e183edc2025ecfdba4429ba43c960224103b3c3dc26616503cdc2158a3d6c93",
            # tokenizer_config.json and added_tokens.json are told by one source alone, and so not pinned.
            hashes={
                "config.json": "9328fc6e157f344fbbcd8c605a876c1fe2f7441a40a00c3046f4e8f99ab619e6",
                "tokenizer.json": "f758fc1ee05a0775387ad8fa3983fab0c40e4a05cf6b7aea00a29e696cd6205c",
                "vocab.json": "3ba3c3109ff33976c4bd966589c11ee14fcaa1f4c9e5e154c2ed7f99d80709e7",
                "merges.txt": "fe36cab26d4f4421ed725e10a2e9ddb7f799449c603a96e7f29b5a3c82a95862",
                "special_tokens_map.json": "a00e1f660c842693e7f667898759c24eb538c2dbb09b91c22dbde1b45d4cdee8",
            },
            licence="Apache-2.0",
            citation="Wang and Komatsuzaki, GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model, 2021",
            purpose="Tables 1 and 2",
        ),
    )
}


def _moments(model: str, folder: str, layers: range, part: str, size: int) -> PlainSource:
    """The published second moments of one model; a file is one float32 matrix with its counts."""
    names = [f"transformer.h.{layer}.mlp.{part}_float32_mom2_100000.npz" for layer in layers]
    return PlainSource(
        name=f"moments-{model}",
        files=tuple(
            PlainFile(name=name, urls=(f"{_HOST}/stats/{folder}/wikipedia_stats/{name}",), size=size) for name in names
        ),
        licence=_ROME_LICENCE,
        citation=_ROME,
        purpose=f"ROME and MEMIT on {model}",
    )


def _mend(model: str, file: str, size: int) -> PlainSource:
    """MEND's published weights for one model; the size is the network's with its optimiser's state, an estimate."""
    return PlainSource(
        name=f"mend-{model}",
        files=(PlainFile(name=file, urls=(f"{_HOST}/weights/{file}",), size=size),),
        licence=_ROME_LICENCE,
        citation=_MEND,
        purpose=f"MEND on {model}",
    )


def _facts(name: str, file: str, size: int, sha256: str, purpose: str, other_bytes: str | None = None) -> PlainSource:
    """A published fact file, whose bytes are known."""
    wanted = PlainFile(name=file, urls=(f"{_HOST}/dsets/{file}",), size=size, exact=True, sha256=sha256)
    return PlainSource(
        name=name, files=(wanted,), licence=_ROME_LICENCE, citation=_ROME, purpose=purpose, other_bytes=other_bytes
    )


LRE_COMMIT = "1b9ec3cf2b8368e42bde7e80fcef384312a6ec07"
_LRE_FILES = {
    "city_in_country": (2_716, "5fd8f9e99e6d8567d05cfb4e7c9324ed03b07ba1ebf827614b7b58a811bc11a5"),
    "company_ceo": (30_559, "c75f9b31c872b85601b7163b2c7a8f11c439f2852a876d5a126401d57ea3a81b"),
    "company_hq": (66_199, "22c86cf64b908db86c73b17add31e59fd6022ac74e500840fcad35bd706a8e4e"),
    "country_capital_city": (2_553, "9945d2da1fa1145c1d7e59ac61a25ebee74299c00bd53fc9308167f9e1d44fc0"),
    "country_currency": (2_868, "4a1a49afbdc4792fc330196475f456a22bc49dfe0ec9eb966439e4f36081d99b"),
    "country_language": (2_615, "0996525735107934f0d2e467e6fac7d2c785c42e8300ccb41ae6e9b5dfde2b76"),
    "country_largest_city": (2_374, "ffb5e18dc1f26a101786905db84f087370bb191067ff8d9f1294156b1d9bdccc"),
    "food_from_country": (2_831, "2e308f61974de104eaa29a432bca1232802f9c6e1ea145151f384d96412d4a21"),
    "landmark_in_country": (79_212, "58d545ec481a0d22be5f8ce1f50410093349daf002f3e7c1f8ad26c2c1fde581"),
    "landmark_on_continent": (90_709, "64ec992304e0cc91ac4ada2e7d32d13401e171ea9e09fa65525273842b82160b"),
    "person_band_lead_singer": (2_439, "ad4943c8bc14d649577dafce7acb8d81b2a56ea1f39ca806cdba20880dcd6742"),
    "person_father": (106_139, "796e03665de86d7441b2374fb443c1ddebc77749c01c4bab92c571fda4c8753d"),
    "person_mother": (106_459, "bcf99ade0df1d9d8a03d40149aaf054cc7ecbd7f20ec6afe071d9361d2875d02"),
    "person_native_language": (87_179, "ad6f699fbad04cecf45a424713249803921598187c6302dd2a8e20702f4c1928"),
    "person_occupation": (61_552, "57e89f94c17ff0fd55d5e3ad3aa24ee5e118a3ff7447fff88457113a0e4ce7a7"),
    "person_plays_instrument": (37_311, "e7c92e6a4d35b6198775a6f6062c948ca95aaedf2cc84a009b07989e4ccac08a"),
    "person_plays_position_in_sport": (92_028, "adfc0605d1f31809329171e9ef348ca354b372934d8197e6e20693b0cb9e1c6f"),
    "person_plays_pro_sport": (23_894, "adfea3a51c0315818a63ec0a421fba45818f3854212f9999910c80eac934165c"),
    "person_university": (9_813, "739fc4a11861d30a71852243fc6e06e8d34143b8e0ca3dd65cb9bb3bc5a0190c"),
    "pokemon_evolutions": (3_888, "254e3982935571cfd4311ea774da0d2a4b2a577c6c86e0f74508a9651efc6494"),
    "presidents_birth_year": (1_646, "4b6e7cf48aff48db010a0aa78ab674f0cebeb2d950203d0723a1e7227cb3ad23"),
    "presidents_election_year": (1_658, "16a81b72fd253b82d7571d63e0e5ed3906eb62fde565b31ed2cd81967bfc46ee"),
    "product_by_company": (48_382, "373dac4b5322dc29ca800b8bf38bac78a0d9297e56ee877100733f68e9c3da40"),
    "star_constellation": (29_802, "328aa42c7960f8ce5a75a1fbe766141e0b22473c6a35d8b2e8165a4050188bde"),
    "superhero_archnemesis": (9_351, "bd335092e081782d7e49a4a3472c0aac54b14999a3b78e68f6d94fe7ed7dcb38"),
    "superhero_person": (9_779, "3b3a3a03d4b5c0b91343d4e7d562a434a17ae85ef286ed151bafee65c19a7804"),
}
"""LRE's factual relations at that commit: a file each, its bytes and sha256."""


PLAIN_SOURCES = {
    source.name: source
    for source in (
        _facts(
            "counterfact",
            "counterfact.json",
            45_108_470,
            "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f",
            "the facts of Tables 1 and 2",
            "the hub's data set azhx/counterfact at c01c413f856ee38f5c080c9fc5e87aff478e2ff9 holds the records as "
            "Parquet: re-sort by case_id and compare",
        ),
        _facts(
            "known",
            "known_1000.json",
            343_229,
            "61daca55318bb5260c1e62e133debef9102c7b278bbc7b19dd2ac655543f333a",
            "the facts of Figures 2 and 3",
        ),
        PlainSource(
            name="relation",
            files=(
                PlainFile(
                    name="rel_data.zip",
                    urls=(f"{_RAKE}/rel_data.zip",),  # the address that the authors named
                    size=20_000_000,
                ),
            ),
            members=(
                # The archive's inside is unknown: these are the fields and names that the authors' code reads.
                ArchiveMember(
                    key="rel_counterfact",
                    name="rel_counterfact.json",
                    limit=500_000_000,
                    needs=(
                        "requested_rewrite.relation.strs",
                        "requested_rewrite.add_rel_prompt",
                        "requested_rewrite.rm_rel_prompt",
                        "rel_prompts",
                    ),
                ),
                ArchiveMember(
                    key="rel_known",
                    name="rel_known_1000.json",
                    limit=50_000_000,
                    needs=("subject", "prompt"),
                    optional=True,
                ),
            ),
            licence="none stated",
            citation="Wei et al., Assessing Knowledge Editing in Language Models via Relation Perspective, 2023",
            purpose="the relation perspective of both data sets, by the authors",
            instead="or run with --relation-source templates, which is judged with wider tolerances",
        ),
        PlainSource(
            name="lre",
            files=tuple(
                PlainFile(
                    name=f"{name}.json",
                    urls=(f"{_RAW}/evandez/relations/{LRE_COMMIT}/data/factual/{name}.json",),
                    size=size,
                    exact=True,
                    sha256=sha256,
                )
                for name, (size, sha256) in _LRE_FILES.items()
            ),
            licence="MIT (evandez/relations)",
            citation="Hernandez et al., Linearity of Relation Decoding in Transformer Language Models, ICLR 2024",
            purpose="real facts of 26 relations, --facts lre; not facts of the paper",
        ),
        _moments("gpt2-xl", "gpt2-xl", range(13, 18), "c_proj", 163_840_000),
        _moments("gpt-j", "EleutherAI_gpt-j-6B", range(3, 9), "fc_out", 1_073_740_000),
        _mend("gpt2-xl", "mend-10tok-gpt2-xl.pt", 1_500_000_000),
        _mend("gpt-j", "mend-10tok-gpt-j-6b.pt", 3_800_000_000),
    )
}

SOURCES: dict[str, Source] = {**HUB_MODELS, **PLAIN_SOURCES}
GROUPS = {"full": tuple(name for name in SOURCES if name not in ("gpt2", "lre"))}
"""Names for several sources: `full` is all that the paper's tables and figures take."""


@dataclass(frozen=True)
class NamedFile:
    """A fetched file: the source it belongs to, its name in the cache, and its hash where one is pinned.

    The name is empty for a source of several files, which is the folder of all of them.
    """

    source: str
    name: str
    sha256: str | None = None


def file_named(key: str) -> NamedFile:
    """The file called counterfact, known, rel_counterfact, rel_known, mend-gpt2-xl or mend-gpt-j, or all files of a
    source of several; else FactError.
    """
    for source in PLAIN_SOURCES.values():
        for member in source.members:
            if member.key == key:
                return NamedFile(source.name, member.name)
        if source.name == key and not source.members:
            whole = len(source.files) > 1
            return NamedFile(key, "") if whole else NamedFile(key, source.files[0].name, source.files[0].sha256)
    raise FactError(f"{key!r} is not a file that is fetched; see kloc fetch for those that are")
