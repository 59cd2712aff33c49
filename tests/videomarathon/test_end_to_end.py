"""From a folder of videos to the score of a model that learnt from what was asked about them."""

from pathlib import Path

from lit_hour.cli import main
from lit_hour.evaluation.report.report import read_report
from tests.helpers.toy_run import NUM_STEPS, ToyProject, toy_settings
from tests.videomarathon.factories import FinishedRun, SyntheticVideos


def test_what_was_annotated_trains_a_model_which_is_evaluated(
    films: SyntheticVideos, finished: FinishedRun, tmp_path: Path
) -> None:
    toy = ToyProject.write(tmp_path, toy_settings(tmp_path / "no world"))
    questions, shards = finished.out / "questions.json", tmp_path / "shards"
    main(["pack", str(films.folder), str(questions), str(shards), str(toy.yaml)])
    sources = [f"data.{kind}.world.shards={shards}" for kind in ("sources", "validation_sources")]
    assert f"step {NUM_STEPS}" in toy.train("annotated", *sources)
    run = toy.run_dir("annotated")
    main(
        [
            *("evaluate", f"evaluation.questions={questions}", f"evaluation.videos={films.folder}"),
            *("--run", str(run.path), "--out", str(tmp_path / "score")),
        ]
    )
    report = read_report(tmp_path / "score" / "report.json")
    kept = sum(
        counts for formats in finished.totals.num_questions.values() for counts in formats.values()
    )
    assert report.score.num_evaluated == report.score.num_questions == kept > 100
    assert (
        set(report.groups["format"]) == {"open ended", "multiple choice"}
        and len(report.groups["task"]) > 18
    )
