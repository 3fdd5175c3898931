import asyncio

from clipsearch.server.guard import Guard


def test_a_client_that_is_slow_when_the_server_ends_is_answered_and_no_error():
    async def waiting(scope, receive, send):
        await receive()

    async def never():
        await asyncio.Event().wait()

    async def ended():
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/health",
            "headers": [(b"host", b"127.0.0.1")],
        }
        sent = []

        async def send(message):
            sent.append(message)

        task = asyncio.create_task(Guard(waiting, "token")(scope, never, send))
        await asyncio.sleep(0)
        task.cancel()
        await task
        return sent

    start, body = asyncio.run(ended())
    assert start["status"] == 503
    assert b"The server is ending." in body["body"]
