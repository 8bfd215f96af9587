// SPDX-License-Identifier: Apache-2.0
// node node-relay.mjs PORT UPSTREAM_PORT: the proxy that a Node team writes by hand, for the side-by-side benchmark.
import http from 'node:http';

const [port, upstreamPort] = process.argv.slice(2).map(Number);
const agent = new http.Agent({ keepAlive: true });

const server = http.createServer((req, res) => {
    const upstream = http.request(
        { host: '127.0.0.1', port: upstreamPort, path: req.url, agent, headers: { accept: 'text/event-stream' } },
        (answer) => {
            res.writeHead(answer.statusCode, {
                'content-type': answer.headers['content-type'] ?? 'text/event-stream',
                'cache-control': 'no-cache',
            });
            res.flushHeaders();
            answer.pipe(res);
            answer.on('aborted', () => res.destroy());
        },
    );
    upstream.on('error', () => (res.headersSent ? res.destroy() : res.writeHead(502).end()));
    res.on('close', () => res.writableEnded || upstream.destroy());
    upstream.end();
});
server.requestTimeout = 0;
server.listen({ host: '127.0.0.1', port, backlog: 4096 });
process.on('SIGTERM', () => process.exit(0));
