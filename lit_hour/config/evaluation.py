"""Settings of `lit-hour evaluate`: the questions, and how they are answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class EvaluationConfig:
    """Question files and videos of a benchmark, and the protocol."""

    benchmark: Literal[
        "custom",
        "video_mme",
        "lvbench",
        "longvideobench",
        "mlvu",
        "tempcompass",
        "egoschema",
        "longvideobench_test",
        "mlvu_test",
        "egoschema_test",
        "charades_sta",
        "qvhighlights",
    ] = field(
        "custom",
        "format of the question files; custom is that of `lit-hour pack`. Those that end in _test"
        " have no public answers: a file for the site of the benchmark is written",
    )
    questions: str = field("", "question files, separated by commas; * matches any part of a name")
    videos: str = field(
        "", "folders of the videos, separated by commas; the first that contains a video is used"
    )
    subtitles: str = field(
        "",
        "folder of the published subtitles: of Video-MME .srt files named like the videos, listed"
        " before the question; of LongVideoBench .json files, put between the frames; empty for no"
        " subtitles",
    )
    scoring: Literal["generate", "loglikelihood"] = field(
        "generate",
        "generate: parse the option from the generated answer; loglikelihood: choose the option"
        " with the highest log-likelihood. Questions without options are always generated",
    )
    mlvu_rule: Literal["mlvu", "mlvu_lmms_eval"] = field(
        "mlvu",
        "how answers to MLVU's choice questions are read: by the rule of its authors, or by that of"
        " lmms-eval, the first of A to D",
    )
    judge: str = field(
        "",
        "URLs of OpenAI-compatible servers, separated by commas, whose model judges the responses"
        " that no rule can score, of MLVU and TempCompass; empty leaves them without a score."
        " videomarathon.client has the limits",
    )
    judge_model: str = field("", "name of the judge on these servers")
    judge_prompts: str = field(
        "",
        "JSON file with other prompts of the judge, such as the published ones; empty for the"
        " project's own, by which scores are not comparable with published ones",
    )
    batch_size: int = field(
        1,
        "questions about one video that are answered at once: faster, may change the last digits",
        ge=1,
    )
    limit: int = field(0, "use only the first videos; 0 for all", unit="videos", ge=0)
    max_invalid_records: int = field(
        0,
        "records of the question files, and cues of a file of subtitles, that may be invalid",
        unit="records",
        ge=0,
    )
    max_skipped_questions: int = field(
        0,
        "questions that may be skipped because their video is missing or damaged, or because they"
        " do not fit in text.max_tokens; each is listed",
        unit="questions",
        ge=0,
    )
