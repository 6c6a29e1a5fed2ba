"""Which tools a model can be offered: one that no provider takes would end conversations. Pure."""

from voicebus.bus.messages import work
from voicebus.services.tools.bounds import DESCRIPTION_LIMIT, LONGEST_S, NAME


def fault(tool: work.ToolSpec) -> str | None:
    """Why this tool cannot be offered to a model, in words for whoever wrote it; None if it can."""
    if not NAME.fullmatch(tool.name):
        return f"the tool name {tool.name[:100]!r} is not 1 to 64 letters, digits, _ or -"
    if len(tool.description) > DESCRIPTION_LIMIT:
        length = len(tool.description)
        return (
            f"the description of {tool.name} has {length} characters, the limit is "
            f"{DESCRIPTION_LIMIT}"
        )
    if tool.parameters.get("type") != "object":
        return f"the parameters of {tool.name} are not the JSON Schema of an object"
    for field, value in (("timeout_s", tool.timeout_s), ("grace_s", tool.grace_s)):
        if not (0 <= value <= LONGEST_S) or (field == "timeout_s" and value == 0):
            return f"{field} of {tool.name} is {value:g}; expected at most {LONGEST_S} (a week)"
    if tool.concurrency is not None and tool.concurrency < 1:
        return f"concurrency of {tool.name} is {tool.concurrency}; expected 1 or more"
    return None
