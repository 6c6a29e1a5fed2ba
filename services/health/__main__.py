"""`python -P -m voicebus.services.health`, by supervisord."""

from voicebus.services.health.main import main

main()
