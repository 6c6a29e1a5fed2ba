"""`python -P -m voicebus.services.session`."""

from voicebus.services.session.main import main

main()
