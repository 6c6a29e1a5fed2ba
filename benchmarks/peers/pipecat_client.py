"""Pipecat's pipeline with its OpenAI realtime service.

Its handlers are awaited on the pipeline's loop; style `threads` puts the work into a thread, as a
careful developer would.
"""

import asyncio
import os
import sys

import app
import work
from loguru import logger
from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    LLMRunFrame,
    TTSAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

logger.remove()
logger.add(sys.stderr, level="ERROR")


class Ears(FrameProcessor):
    """Behind the model for its sound; before it for transcripts, which go upstream."""

    def __init__(self, bench):
        super().__init__()
        self._bench = bench

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self._bench.sound.sound(frame.audio)
        elif isinstance(frame, InterimTranscriptionFrame):
            self._bench.words.text(frame.text)
        await self.push_frame(frame, direction)


def handler(name, style):
    async def handle(params):
        seconds = params.arguments.get("seconds", 2.0)
        if style == "threads":
            await asyncio.to_thread(work.KINDS[name], seconds)
        else:
            work.KINDS[name](seconds)
        await params.result_callback({"result": "done"})

    return handle


async def main(bench):
    llm = OpenAIRealtimeLLMService(api_key="none", base_url=bench.url)
    schemas = []
    for name in work.KINDS:
        llm.register_function(name, handler(name, bench.style))
        schemas.append(FunctionSchema(name, "works", {"seconds": {"type": "number"}}, []))
    context = LLMContext([{"role": "user", "content": "hello"}], ToolsSchema(schemas))
    pair = LLMContextAggregatorPair(context)
    task = PipelineTask(
        Pipeline([pair.user(), Ears(bench), llm, Ears(bench), pair.assistant()]),
        params=PipelineParams(audio_in_sample_rate=24000, audio_out_sample_rate=24000),
        idle_timeout_secs=None,  # nobody speaks while a hundred others start
    )
    running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
    await task.queue_frames([LLMRunFrame()])
    await asyncio.sleep(1.0)

    async def send(sound):
        await task.queue_frame(InputAudioRawFrame(audio=sound, sample_rate=24000, num_channels=1))

    if bench.talks:
        talking = asyncio.create_task(bench.talk(send))
    bench.ready()
    await bench.over()
    if bench.talks:
        talking.cancel()
    running.cancel()
    bench.save()
    os._exit(0)


if __name__ == "__main__":
    app.run(main)
