// The suite's origin on a loopback port of its own choice: node server.mjs SUITE_DIRECTORY
// Prints "port N" when it accepts. The suite's handlers decide everything; what they log is dropped.

import http from 'node:http'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const suite = process.argv[2]
const load = async name => (await import(pathToFileURL(path.join(suite, 'server', name)).href)).default
const handlers = {
  config: await load('handle-config.mjs'),
  test: await load('handle-test.mjs'),
  state: await load('handle-state.mjs')
}
const print = console.log
console.log = () => {}

const server = http.createServer((request, response) => {
  const [kind, ...segments] = new URL(request.url, 'http://origin/').pathname.split('/').slice(1)
  if (kind in handlers) {
    handlers[kind](segments, request, response)
  } else {
    response.writeHead(404).end()
  }
})
server.keepAliveTimeout = 0
server.listen(0, '127.0.0.1', () => print(`port ${server.address().port}`))
