"""What an audit or a comparison produces: typed records, versioned, read by page, table, ledger and certificate. No torch.

    Results  a run: how it was made, and its scenarios
      Scenario  one request on one model: sizes, references, what was not tested
        Row  one model: the original, a fresh retrained one, or what a method returned
          Measurement  one value: interval, yardstick, verdict

`read` takes the data of any version up to `VERSION` and brings them forward through `MIGRATIONS`; `to_json` writes them. A number
that is not finite is None here and null in JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from lethe.core.evidence import (
    RETRAINED,
    Access,
    Aspect,
    Better,
    Depth,
    Ending,
    HidingVerdict,
    Kind,
    Objective,
    Role,
    Side,
    Tier,
    Verdict,
    YardstickKind,
)
from lethe.core.user_files import regular
from lethe.errors import StorageError
from lethe.results.answers import Answers
from lethe.results.ladder import Ladder
from lethe.results.migrations import MIGRATIONS
from lethe.results.policy import Policy
from lethe.results.record import Free, Number, Record
from lethe.results.yardstick import Descent, Doubt, FalseAlarms, Power, References

VERSION = len(MIGRATIONS) + 1


class Yardstick(Record):
    """What a value is compared with."""

    kind: YardstickKind = Field(default=RETRAINED, description="Models retrained without the data, or a weaker stand-in: the "
                                "value of a model to which the data are unseen (holdout), or the original's neighbours "
                                "(rashomon).")
    mean: Number = Field(description="Mean of the values.")
    sd: Number = Field(description="Standard deviation of the values.")
    n: int = Field(description="How many models have a value.")
    low: Number = Field(description="Lower end of the band that decides: one more such model lies in all bands of its tests "
                        "with a probability of at least 95 %; null: no bound.")
    high: Number = Field(description="Upper end of that band.")
    values: tuple[Number, ...] = Field(default=(), description="The value of every such model.")


class Histogram(Record):
    """Scores of single records, counted in bins."""

    edges: tuple[Number, ...] = Field(description="Edges of the bins, one more than there are counts.")
    forget: tuple[int, ...] = Field(default=(), description="Records of the forget set in each bin.")
    holdout: tuple[int, ...] = Field(default=(), description="Unseen records in each bin.")
    retrained: tuple[int, ...] = Field(default=(), description="Records of the forget set in each bin, by a retrained model.")


class Measurement(Record):
    """One measured value of one model: its yardstick and verdict."""

    audit: str = Field(description="The audit that measured it.")
    metric: str = Field(description="What was measured.")
    value: Number = Field(description="The value; null when it is not finite.")
    low: Number = Field(default=None, description="Lower end of its 95 % interval; null where none is defined.")
    high: Number = Field(default=None, description="Upper end of its 95 % interval.")
    n: int | None = Field(default=None, description="How many examples it was measured on.")
    definition: str = Field(default="", description="What the metric means, in words.")
    range: tuple[Number, Number] = Field(default=(None, None), description="Smallest and largest possible value; null: no bound.")
    better: Better = Field(default="match", description="Which direction is better; match: towards retraining.")
    tier: Tier = Field(default="forgetting", description="The family of tests that are corrected together for their number.")
    aspect: Aspect = Field(default="behaviour", description="What the metric examines; a model that passes one aspect and "
                           "fails another may only hide the data.")
    version: int = Field(default=1, description="Version of the metric; it changes whenever its numbers would.")
    verdict: Verdict = Field(description="Where the value lies beside the yardstick; 'shown' is reported and not judged.")
    side: Side = Field(default="", description="Above (+) or below (−) the yardstick, when outside.")
    p: Number = Field(default=None, description="Two-sided p-value against the yardstick.")
    p_joint: Number = Field(default=None, description="The same as one test of the whole model, calibrated on the references.")
    detectable: Number = Field(default=None, description="The smallest difference from the yardstick that is outside.")
    gap_low: Number = Field(default=None, description="Lower end of the 95 % interval of the difference from the yardstick, "
                            "else from the untouched model.")
    gap_high: Number = Field(default=None, description="Upper end of that interval.")
    yardstick: Yardstick | None = Field(default=None, description="What the value is compared with; null where there is nothing.")
    original: Number = Field(default=None, description="The same value of the untouched model: the positive control.")
    original_outside: bool | None = Field(default=None, description="Whether that control was detected; null: unknown.")
    seconds: Number = Field(default=None, description="How long the audit took on this model.")
    distance: bool = Field(default=False, description="Whether it measures how far from retraining, without a direction.")
    margin: Number = Field(default=None, description="Declared difference from retraining that does not matter; null: none.")
    equivalent: bool | None = Field(default=None, description="Whether the value was shown to lie within the margin; null: not "
                                    "tested.")
    smallest_margin: Number = Field(default=None, description="The smallest margin that would pass.")
    histogram: Histogram | None = Field(default=None, description="Scores of single records behind the value.")
    detail: Free = Field(default_factory=dict, description="What else the audit notes, by its own keys.")

    @property
    def key(self) -> tuple[str, str]:
        """(audit, metric)."""
        return self.audit, self.metric


class Cost(Record):
    """What a model took to make."""

    seconds: Number = Field(default=None, description="Wall time of the method alone.")
    cpu_seconds: Number = Field(default=None, description="Processor time of the method alone.")
    steps: int | None = Field(default=None, description="Steps of the optimiser.")
    examples: int | None = Field(default=None, description="Examples sent forward with gradients.")
    peak_memory_mb: Number = Field(default=None, description="Peak memory, in MB.")

    def of(self, whole: Cost) -> float | None:
        """This time as a share of `whole`: of the processor where both are known, since other work on the machine does not add
        to it, else wall time; None where one is not known."""
        if self.cpu_seconds and whole.cpu_seconds:
            return self.cpu_seconds / whole.cpu_seconds
        return self.seconds / whole.seconds if self.seconds is not None and whole.seconds else None


class Conclusion(Record):
    """The conclusion from the evidence on one model."""

    verdict: Ending = Field(description="The verdict on the model.")
    text: str = Field(default="", description="The same in one plain sentence.")


class Hiding(Record):
    """Whether the data are gone or only hidden."""

    verdict: HidingVerdict = Field(description="Where the forgetting happened, or that the data are suspected to be only hidden.")
    text: str = Field(default="", description="Why, in one sentence.")
    metrics: tuple[str, ...] = Field(default=(), description="The metrics that decided it.")


class TextSample(Record):
    """A prompt with the answers of the untouched and of the new model; chosen by seed."""

    kind: Literal["text"] = "text"
    split: str = Field(default="", description="The split that the prompt comes from.")
    prompt: str = Field(description="The prompt.")
    truth: str = Field(default="", description="The answer in the data.")
    before: str = Field(description="The answer of the untouched model.")
    after: str = Field(description="The answer of the new model.")


class ImageSample(Record):
    """A picture by the untouched and by the new model with the same seed."""

    kind: Literal["image"] = "image"
    split: str = Field(default="", description="What the prompt is to the request: erased, neighbour, out of scope or no prompt.")
    caption: str = Field(default="", description="The prompt or the name of the example.")
    before: str = Field(description="The picture of the untouched model: base64 of a PNG.")
    after: str = Field(description="The picture of the new model: base64 of a PNG.")


Sample = Annotated[TextSample | ImageSample, Field(discriminator="kind")]


class Trial(Record):
    """One candidate of a search for a method and its settings."""

    number: int = Field(description="Place in the order tried; 0 is the untouched model.")
    round: int = Field(default=0, description="Round of the search.")
    method: str = Field(description="The method that was tried.")
    settings: Free = Field(default_factory=dict, description="Options that differ from the method's own.")
    modifiers: Free = Field(default_factory=dict, description="Modifiers of the run.")
    distance: Number = Field(description="Distance from the target on the selection part; null when the candidate failed.")
    forgetting: Number = Field(default=None, description="The part of the distance that forgetting makes.")
    utility: Number = Field(default=None, description="The part of the distance that lost utility makes.")
    cost: Number = Field(default=None, description="Examples sent forward with gradients, in passes over the training data.")
    seconds: Number = Field(default=None, description="How long the candidate took.")
    front: bool = Field(default=False, description="Whether no other is better in forgetting, utility and cost (Pareto front).")
    error: str = Field(default="", description="Why it failed; empty when it did not.")
    chosen: bool = Field(default=False, description="Whether the search chose it.")


class Fall(Record):
    """Why the watchdog did not return the model that a method ended with, but an earlier one of the same run."""

    part: Literal["retain", "holdout", "forget", "weights"] = Field(
        description="What it looked at; holdout: unseen data; weights: values that are not finite, "
                    "or a matrix that grew.")
    metric: str = Field(description="What was measured there.")
    value: Number = Field(default=None, description="Its value for the model that the method ended with.")
    original: Number = Field(default=None, description="Its value for the original.")
    floor: Number = Field(default=None, description="The limit that was crossed.")
    step: int = Field(description="Steps of the run when it was judged.")
    kept: int = Field(default=0, description="Steps after which the returned model stood; 0: it is the original.")


class Row(Record):
    """One model of a scenario: the original, a fresh retrained model, or what a method returned."""

    name: str = Field(description="Names the row within its scenario; rows of several seeds have the seed in it.")
    label: str = Field(default="", description="What rows that differ only in their seed share: one line of a table.")
    method: str = Field(default="", description="The method's name; empty for the controls and for models made elsewhere.")
    variant: int = Field(default=1, description="Counts the settings of one method in a comparison, from 1.")
    seed: int | None = Field(default=None, description="Seed of the run; null where Lethe did not make the model.")
    role: Role = Field(description="The untouched model, a retrained one, or the result of a method.")
    kind: Kind = Field(default="weights", description="What changed: the weights, an adapter that can be taken off, or a guard "
                       "at inference.")
    config: Free = Field(default_factory=dict, description="The effective options of the method, its settings and modifiers.")
    cost: Cost = Field(default=Cost(), description="What the model took to make.")
    notes: tuple[str, ...] = Field(default=(), description="What a reader must know about the run: stopped early, floor reached.")
    fall: Fall | None = Field(default=None, description="Set where the watchdog ended the run at its last sound point.")
    unchanged: bool = Field(default=False, description="Whether a method that changes weights left them all as they were: a "
                            "failure, and never certified.")
    error: str | None = Field(default=None, description="Why the method failed; null when it did not.")
    defect: bool = Field(default=False, description="Whether it failed by a defect of the method rather than by a named limit.")
    log: str | None = Field(default=None, description="The file in the run folder that holds the traceback of a failure.")
    guarantee: Free = Field(default_factory=dict, description="What the method itself proves: {} or level, basis, assumptions, …")
    conclusion: Conclusion = Field(description="The conclusion from the evidence.")
    answers: Answers | None = Field(default=None, description="Forgotten, useful, indistinguishable; null: the method failed, or "
                                    "the results are older than schema 3.")
    hiding: Hiding | None = Field(default=None, description="Whether the data are gone or only hidden; null for the controls.")
    evidence: tuple[Measurement, ...] = Field(default=(), description="Every measured value.")
    samples: tuple[Sample, ...] = Field(default=(), description="Examples for a person to look at, chosen by seed.")
    search: tuple[Trial, ...] = Field(default=(), description="The candidates, where the method searched.")

    @property
    def exact(self) -> bool:
        """Whether it was computed without the records, which are removed therefore, and not suppressed."""
        return bool(self.guarantee.get("level") == "exact")

    def measured(self, metric: str) -> Measurement:
        """The first measurement of a metric. KeyError when there is none."""
        for item in self.evidence:
            if item.metric == metric:
                return item
        raise KeyError(f"{self.name}: {metric}")


class NotTested(Record):
    """An audit, or a part of one, that was not carried out."""

    audit: str = Field(description="The audit.")
    subject: str = Field(default="", description="The model that it could not measure; empty: all of them.")
    metric: str = Field(default="", description="The metric that could not be computed; empty: all of the audit's.")
    why: str = Field(description="Why not.")
    defect: bool = Field(default=False, description="Whether the audit failed by a defect rather than by a named limit.")
    log: str | None = Field(default=None, description="The file in the run folder that holds the traceback of a failure.")

    @property
    def title(self) -> str:
        """'audit of model: metric', with what is known of it."""
        return self.audit + (f" of {self.subject}" if self.subject else "") + (f": {self.metric}" if self.metric else "")


class Blind(Record):
    """What an audit that was carried out cannot see."""

    audit: str = Field(description="The audit.")
    text: str = Field(description="What it cannot see, in one sentence.")


class Declared(Record):
    """The equivalence margins, written down before any model was examined."""

    at: str = Field(description="When, in UTC (ISO 8601).")
    margins: dict[str, float] = Field(default_factory=dict, description="Metric or pattern -> difference that does not matter.")


class Scenario(Record):
    """One request on one model: what was requested, what it was compared with, and the row of every model."""

    name: str = Field(default="", description="Names the scenario within the run; empty when there is only one.")
    request: str = Field(default="", description="What was to be forgotten, in words.")
    family: str = Field(default="", description="The family of the model.")
    score_name: str = Field(default="accuracy", description="What the family's score is called.")
    sizes: dict[str, int] = Field(default_factory=dict, description="Split -> number of examples.")
    fingerprints: dict[str, str] = Field(default_factory=dict, description="Split or model -> fingerprint of its content.")
    unseen: str = Field(default="", description="Which unseen examples the forget set was compared with, in words.")
    facts: Free = Field(default_factory=dict, description="Where model and data come from.")
    references: References = Field(default=References(), description="The yardstick.")
    subjects: tuple[Row, ...] = Field(default=(), description="The original, the retrained model, then each method.")
    not_tested: tuple[NotTested, ...] = Field(default=(), description="What was not tested, and why.")
    blind: tuple[Blind, ...] = Field(default=(), description="What the audits cannot see.")
    false_alarms: FalseAlarms | None = Field(default=None, description="The tests applied to retrained models; null: too few.")
    power: Power | None = Field(default=None, description="The smallest part of the forget set left in that the tests would have "
                                "seen; null: fewer than four retrained models, or older results.")
    doubts: tuple[Doubt, ...] = Field(default=(), description="Reasons to doubt the yardstick.")
    descent: tuple[Descent, ...] = Field(default=(), description="Models handed over, each beside the original.")
    max_loss: Number = Field(default=None, description="The largest loss of the score that does not matter, as declared.")
    objective: Objective = Field(default="records", description="What is to go: records, a concept, or a behaviour.")
    declared: Declared | None = Field(default=None, description="The equivalence margins; null: none were written down.")
    depth: Depth | None = Field(default=None, description="How deep the audit went.")
    access: Access | None = Field(default=None, description="What the audits could use, from the new model alone (L0) to planted "
                                  "canaries (L3).")
    ladder: Ladder | None = Field(default=None, description="What was tried, where a ladder was climbed; null: none was.")
    policy: Policy | None = Field(default=None, description="The policy by which its method was chosen; null: by none.")
    watched: tuple[str, ...] = Field(default=(), description="Labels of methods that ask for no retained data, whose runs the "
                                     "watchdog scored on some.")

    def goes(self, rows: Iterable[Row]) -> Objective:
        """What is to go from these models: the scenario's objective; records from those that were computed without them."""
        exact = {row.exact for row in rows if row.role == "method" and row.error is None}
        return "records" if self.objective == "behaviour" and exact == {True} else self.objective

    @property
    def retraining(self) -> Cost:
        """What one of the references took to train, in the mean."""
        return Cost(seconds=self.references.seconds_each, cpu_seconds=self.references.cpu_seconds_each)

    @property
    def defects(self) -> list[str]:
        """What failed for a reason that is not an error on purpose: rows and audits, by name."""
        return [row.name for row in self.subjects if row.defect] + [one.title for one in self.not_tested if one.defect]


class Results(Record):
    """A run: how it was made, and its scenarios."""

    schema_version: Literal[6] = Field(default=6, alias="schema", description="Version of this schema.")
    id: str = Field(description="Names the run: a hash of the effective request.")
    title: str = Field(default="", description="The title of the page.")
    created: str = Field(default="", description="When the run ended (ISO 8601).")
    command: str = Field(default="", description="The command that makes the same results again.")
    seconds: Number = Field(default=None, description="How long everything took.")
    versions: dict[str, str | int] = Field(default_factory=dict, description="Versions of the software behind the numbers; "
                                           "device, threads.")
    config: Free = Field(default_factory=dict, description="The effective request.")
    scenarios: tuple[Scenario, ...] = Field(default=(), description="One for every request on the model.")


def read(data: Mapping[str, Any], name: str = "the results") -> Results:
    """The results in `data`, of this version or an older one. StorageError when they are newer or do not follow the schema.

    name  what to call them in an error: the file's name
    """
    version = data.get("schema", 1) if isinstance(data, Mapping) else None
    if not isinstance(version, int) or version < 1:
        raise StorageError(f"{name} has schema {version!r}, so it holds no results of Lethe and was not read. Name a "
                           "results.json or the folder of a finished run.")
    if version > VERSION:
        raise StorageError(f"{name} has schema {version}; this version of Lethe reads schemas up to {VERSION}, so it was not "
                           "read. Update with: pip install -U lethe-unlearning")
    try:
        current = dict(data)
        for step in MIGRATIONS[version - 1:]:
            current = step(current)
        return Results.model_validate(current)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"{name}: {where} = {str(first['input'])[:80]!r}: {first['msg'].lower()}. The results were edited or "
                           "damaged and were not read. Restore them from a backup, or repeat the run with --again.") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{name} does not have the shape of schema {version} ({type(error).__name__}: {error}), so it was not "
                           "read. Restore it from a backup, or repeat the run with --again.") from None


def load(path: str | Path) -> Results:
    """The results of a run folder or a results.json."""
    path = Path(path)
    file = path / "results.json" if path.is_dir() else path
    if file.exists():
        regular(file, "the path", StorageError)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"{file} is not JSON ({error}): it was cut short or edited, so it was not read. Restore it from a "
                           "backup, or repeat the run with --again.") from None
    return read(data, str(file))


def plain(results: Results) -> dict[str, Any]:
    """The results as JSON-ready data of the newest version."""
    return results.model_dump(mode="json", by_alias=True)


def to_json(results: Results) -> str:
    """The results as JSON text: equal results give equal text."""
    return json.dumps(plain(results), indent=2, sort_keys=True) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of results.json."""
    made = Results.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
