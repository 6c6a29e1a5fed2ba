"""What the ears expect to be asked: a JSGF grammar of the requests that the rules understand.

Every word must be in the recogniser's dictionary; whatever does not fit the grammar is heard with
the general language model.
"""

from voicebus.services.simulator.tool_choice import CITIES

TOPICS = (
    "lighthouses",
    "storms",
    "ships",
    "music",
    "history",
    "animals",
    "flowers",
    "books",
    "trains",
    "mountains",
    "rivers",
    "stars",
    "old maps",
    "the sea",
)
NUMBERS = (
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "twenty",
    "thirty",
    "sixty",
)


def jsgf() -> str:
    """The grammar as a JSGF text."""
    cities = " | ".join(city.lower() for city in CITIES)
    return f"""#JSGF V1.0;
grammar requests;
public <request> = [hello] [please] <clause> [and [then] <clause>] [please];
<clause> = <weather> | <time> | <story> | <search> | <burn> | <crash> | <stop> | <talk>;
<city> = {cities};
<weather> = (what is | what's | how is | tell me) the (weather | temperature) [like]
    (in | for) <city> [today | now | and in <city> | and <city>]
    | will it rain in <city> [today | tomorrow];
<time> = what time is it [now | in <city>] | what is the time [in <city>] | tell me the time;
<story> = tell me (a | a long | another | a short) story;
<search> = search the (archive | archives) [for <topic>] | look in the archive [for <topic>]
    | start (the | a) slow search [for <topic>];
<topic> = {" | ".join(TOPICS)};
<number> = {" | ".join(NUMBERS)};
<burn> = burn [the | a] (processor | computer | core) [for <number> seconds];
<crash> = crash [the | a] (tool | computer | interpreter);
<stop> = stop | wait | enough | be quiet;
<talk> = hello | good morning | thank you [very much] | goodbye | who are you
    | what is your name | count to ten | how are you | yes | no;
"""
