"""From a folder of videos to the score of a model that was trained on the generated questions."""

from pathlib import Path

from lit_hour.cli.main import main
from lit_hour.evaluation.report.report import read_report
from tests.helpers.toy_run import NUM_STEPS, ToyProject, toy_settings
from tests.videomarathon.factories import FinishedRun, SyntheticVideos


def test_annotated_videos_train_a_model_that_is_evaluated(
    videos: SyntheticVideos, finished_run: FinishedRun, tmp_path: Path
) -> None:
    toy = ToyProject.write(tmp_path, toy_settings(tmp_path / "no world"))
    questions, shards = finished_run.out / "questions.json", tmp_path / "shards"
    main(["pack", str(videos.folder), str(questions), str(shards), str(toy.yaml)])
    sources = [f"data.{kind}.world.shards={shards}" for kind in ("sources", "val_sources")]
    assert f"step {NUM_STEPS}" in toy.train("annotated", *sources)
    run = toy.run_dir("annotated")
    main(
        [
            *("evaluate", f"evaluation.questions={questions}"),
            *(f"evaluation.videos={videos.folder}", "--run", str(run.path)),
            *("--out", str(tmp_path / "score")),
        ]
    )
    report = read_report(tmp_path / "score" / "report.json")
    by_format = finished_run.totals.num_questions.values()
    num_kept = sum(counts.total() for counts in by_format)
    assert report.score.num_evaluated == report.score.num_questions == num_kept > 100
    assert set(report.groups["format"]) == {"open ended", "multiple choice"}
    assert len(report.groups["task"]) > 18
