"""python -P -m voicebus.services.relay"""

from voicebus.services.relay.main import main

main()
