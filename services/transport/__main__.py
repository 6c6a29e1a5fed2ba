"""`python -P -m voicebus.services.transport`."""

from voicebus.services.transport.main import main

main()
