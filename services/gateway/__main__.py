"""python -P -m voicebus.services.gateway"""

from voicebus.services.gateway.main import main

main()
