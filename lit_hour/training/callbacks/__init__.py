"""Lightning callbacks of a training run, which `trainer_setup.build_callbacks` lists."""
