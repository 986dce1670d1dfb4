"""Evaluates the model of a training on its splits, and leaves the transcripts in the run's folder."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ds2f.data.loading import Loader
from ds2f.runner.evaluator import Evaluation, evaluate
from ds2f.runner.program import Program
from ds2f.runner.splits import Split
from ds2f.runner.stops import Stops
from ds2f.runner.telemetry import Telemetry
from ds2f.types import Params, Stats

_SAMPLES = 5


class SplitEvaluator(NamedTuple):
    """What an evaluation during a training needs."""

    program: Program
    data: Mapping[str, Split]  # the splits by name
    loaders: Mapping[str, Loader]  # this rank's, by split
    stops: Stops  # heeded between batches and during waits for data

    def evaluate(self, split: str, model: tuple[Params, Stats]) -> Evaluation:
        """Transcribes a split. All ranks call this function.

        Args:
          split: its name.
          model: parameters and running statistics, on the device.
        """
        return evaluate(
            *model,
            self.loaders[split].epoch(meanwhile=self.stops.look),
            self.data[split].references,
            cfg=self.program.cfg.model,
            policy=self.program.policy,
            backend=self.program.backend,
            criterion=self.program.criterion,
            group=self.program.group,
            between=self.stops.vote_and_obey,
        )

    def evaluate_all(self, model: tuple[Params, Stats]) -> dict[str, Evaluation]:
        """Transcribes every split but ``train``."""
        return {split: self.evaluate(split, model) for split in self.data if split != "train"}

    def transcript_rows(self, found: Mapping[str, Evaluation]) -> Iterator[dict[str, Any]]:
        """Transcripts beside their references, as lines of ``transcripts.jsonl``."""
        for split, evaluation in found.items():
            yield from _rows(self.data[split], evaluation)

    def show(self, found: Evaluation, iteration: int, *, best: bool, telemetry: Telemetry) -> None:
        """Hands a validation's transcripts on: a few as samples; all, if the model is the best so far."""
        val = self.data["val"]
        rows = sorted(found.transcripts)[:_SAMPLES]
        samples = [(val.utterances[row].name, val.references[row], found.transcripts[row]) for row in rows]
        telemetry.samples("val", iteration, samples)
        if best:
            telemetry.transcripts(self.transcript_rows({"val": found}))


def _rows(split: Split, found: Evaluation) -> Iterator[dict[str, Any]]:
    for row, transcript in sorted(found.transcripts.items()):
        utterance = split.utterances[row]
        yield {
            "split": split.name,
            "audio": str(utterance.audio),
            **({} if utterance.start is None else {"offset": utterance.start}),
            "duration": round(utterance.duration, 3),
            **({"speaker": utterance.speaker} if utterance.speaker else {}),
            "reference": split.references[row],
            "hypothesis": transcript,
        }
