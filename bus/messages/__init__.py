"""Everything that crosses a process, defined once: schema, docs and checks come from these types.

`events` what a session publishes · `commands` what a client may ask · `link` between session and
transport · `work` between session, dispatcher and workers · `sound` headers of the audio lane ·
`system` what every role says of itself.
"""
