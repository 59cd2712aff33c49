"""Prompts for the 22 tasks: a definition of each and an original worked example."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskPrompt:
    """Definition of a task and an example; as an open-ended question it has no wrong options."""

    definition: str
    question: str
    answer: str
    wrong_options: tuple[str, str, str]


TASK_PROMPTS: dict[str, TaskPrompt] = {
    "temporality/temporal_perception": TaskPrompt(
        "What can be seen at a given moment, or at which moment something can be seen.",
        "What is the baker holding at 04:20?",
        "A wooden peel",
        ("A metal whisk", "A rolling pin", "A paper bag"),
    ),
    "temporality/duration_perception": TaskPrompt(
        "How long something lasts, or which of several things lasts longest or shortest.",
        "How long does the band rehearse before the audience comes in?",
        "About 12 minutes",
        ("About 3 minutes", "About 25 minutes", "About 40 minutes"),
    ),
    "temporality/temporal_reasoning": TaskPrompt(
        "A conclusion from when things happen: what was going on during, before or because of"
        " something else, or what changed between two times.",
        "What had the mechanic already taken off when the storm began?",
        "The front wheel",
        ("The rear mudguard", "The chain guard", "The handlebar"),
    ),
    "temporality/temporal_gap_estimation": TaskPrompt(
        "How much time passes between two things that are told apart clearly.",
        "How much time passes between the sowing and the first watering?",
        "About 8 minutes",
        ("About 2 minutes", "About 15 minutes", "About 30 minutes"),
    ),
    "temporality/temporal_order": TaskPrompt(
        "Which of several things comes first or last, or in which order they come.",
        "Which of these does the guide show last?",
        "The clock tower",
        ("The old harbor", "The fish market", "The city wall"),
    ),
    "spatiality/spatial_perception": TaskPrompt(
        "Where someone or something is at one moment: in the picture, or seen from something else.",
        "Where does the ladder stand when the painter opens the second can?",
        "To the left of the door",
        ("Below the window", "Behind the table", "In the far corner"),
    ),
    "spatiality/spatial_reasoning": TaskPrompt(
        "A conclusion from places that are seen at different times: a route, a layout, what is"
        " nearer, how an arrangement changed.",
        "Which room lies between the kitchen and the garden, by the way that the dog runs?",
        "The laundry room",
        ("The living room", "The guest room", "The store room"),
    ),
    "object/object_recognition": TaskPrompt(
        "Which person or thing is seen at a moment or doing something.",
        "Which tool is used to cut the copper pipe?",
        "A hand saw",
        ("A bench knife", "A pair of scissors", "An angle grinder"),
    ),
    "object/object_attribute": TaskPrompt(
        "A mark of someone or something: color, size, shape, material, state, text on it.",
        "Which color is the lid of the box that the nurse opens first?",
        "Yellow",
        ("White", "Green", "Orange"),
    ),
    "object/object_interaction": TaskPrompt(
        "What is done with a thing or to a person, or who or what takes part in it.",
        "With what does the climber make the rope fast at the top?",
        "A steel ring",
        ("A tree trunk", "A belay glove", "A rock spike"),
    ),
    "object/object_reasoning": TaskPrompt(
        "A conclusion about people or things that needs more than one moment: their number, their"
        " purpose, how they compare, where they come from.",
        "How many different instruments does the woman with the red scarf play in the video?",
        "Three",
        ("One", "Two", "Five"),
    ),
    "object/object_existence": TaskPrompt(
        "Whether someone or something is seen anywhere in the video, or which of several is.",
        "Which of these animals is seen at any time on the farm?",
        "A goat",
        ("A horse", "A goose", "A sheep"),
    ),
    "object/object_permanence": TaskPrompt(
        "Where something is while it cannot be seen, because it was covered, put away or left"
        " behind.",
        "Where are the car keys while the two friends are at the beach?",
        "In the blue rucksack",
        ("Under the towel", "On the kitchen shelf", "In the coat pocket"),
    ),
    "action/action_recognition": TaskPrompt(
        "What someone does at a moment.",
        "What does the goalkeeper do right after the whistle at 31:05?",
        "She ties her shoe",
        ("She drinks water", "She waves her arms", "She takes off a glove"),
    ),
    "action/action_localization": TaskPrompt(
        "When in the video an action takes place, from its first to its last second.",
        "When does the chef flip the omelette?",
        "From 12:04 to 12:09",
        ("From 08:31 to 08:36", "From 15:50 to 15:56", "From 19:12 to 19:17"),
    ),
    "action/action_sequence": TaskPrompt(
        "In which order someone does several things, or what comes right before or after one of"
        " them.",
        "In which order does the potter do these: glaze, fire, trim?",
        "trim, fire, glaze",
        ("glaze, trim, fire", "fire, trim, glaze", "trim, glaze, fire"),
    ),
    "action/action_reasoning": TaskPrompt(
        "Why someone does something or to what end, as other parts of the video show.",
        "Why does the pilot turn back before the second landing?",
        "The runway is flooded",
        ("The fuel is running low", "A passenger is ill", "The radio has failed"),
    ),
    "scene/scene_recognition": TaskPrompt(
        "In which place, light or weather something happens.",
        "In what kind of place does the interview with the diver begin?",
        "On a wooden pier",
        ("In a boat cabin", "In a dive shop", "On a gravel beach"),
    ),
    "scene/scene_transition": TaskPrompt(
        "From which place to which the video changes, when, or how often.",
        "To which place does the video change after the scene in the greenhouse?",
        "A flower market",
        ("A railway station", "A school kitchen", "A village square"),
    ),
    "event/event_sequence": TaskPrompt(
        "In which order events of the video happen, or which event comes between two others.",
        "Which event comes between the opening speech and the prize giving?",
        "The relay race",
        ("The boat parade", "The team dinner", "The sack race"),
    ),
    "event/key_event_extraction": TaskPrompt(
        "Which event matters most for how the video goes on, or which of several happens at all.",
        "Which event makes the crew change its plan for the second day?",
        "The mast breaks",
        ("The wind drops", "A guest arrives", "The map gets lost"),
    ),
    "event/overall_summarization": TaskPrompt(
        "What the video as a whole is about: its subject, its course and its end.",
        "Which sentence sums up the video best?",
        "Two sisters restore an old van, drive it north and sell it to a museum.",
        (
            "Two sisters buy an old van, drive it south and live in it by the sea.",
            "Two sisters restore an old van, race it in the north and win a prize.",
            "Two sisters find an old van, take it apart and sell it piece by piece.",
        ),
    ),
}
