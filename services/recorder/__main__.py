"""python -P -m voicebus.services.recorder"""

from voicebus.services.recorder.main import main

main()
