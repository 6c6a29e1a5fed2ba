"""The providers whose dialect we speak, by the name that a configuration gives."""

from voicebus.services.session.providers.azure import Azure
from voicebus.services.session.providers.base import Translator
from voicebus.services.session.providers.openai import OpenAI
from voicebus.services.session.providers.xai import XAI

TRANSLATORS: dict[str, Translator] = {one.name: one for one in (OpenAI(), Azure(), XAI())}
