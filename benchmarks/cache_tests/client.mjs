// The suite's client against replicas in turn: node client.mjs SUITE_DIRECTORY [--id TEST] BASE_URL...
// Prints JSON: one object per test, with its verdict as the suite itself gives it.
//
// With several base URLs the requests of one test go to one after the other: the second never meets the replica that
// the first one met, which is what a balancer without stickiness does to a cache at its worst.

import path from 'node:path'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [suite, ...rest] = process.argv.slice(2)
const only = rest[0] === '--id' ? rest.splice(0, 2)[1] : undefined
const bases = rest
const load = name => import(pathToFileURL(path.join(suite, name)).href)

const print = console.log
if (only === undefined) console.log = () => {} // the suite's own progress
const { runTests, getResults } = await load('client/runner.mjs')
const { determineTestResult } = await load('lib/display.mjs')
const suites = (await load('tests/index.mjs')).default
let fetch = globalThis.fetch
try { // what the suite uses where it brings it along
  fetch = createRequire(path.join(suite, 'package.json'))('node-fetch')
} catch {}

const ANSWER_MS_MAX = 15000
const SETTLE_MS = 50
const turns = new Map()
async function fetchInTurn (url, init) {
  const id = url.split('/')[4].split('?')[0] // http: '' host kind id
  const turn = turns.get(id) ?? 0
  turns.set(id, turn + 1)
  // An answer is stored for the other replicas a moment after its last byte.
  if (bases.length > 1 && turn) await new Promise(resolve => setTimeout(resolve, SETTLE_MS))
  const signal = AbortSignal.timeout(ANSWER_MS_MAX) // a request that hangs fails its test, not the run
  // Behind a balancer all replicas go by one name.
  const headers = [...(init?.headers ?? []), ['Host', new URL(bases[0]).host]]
  return fetch(bases[turn % bases.length] + url.slice(bases[0].length), { ...init, headers, signal })
}

const chosen = only === undefined
  ? suites
  : suites.map(one => ({ ...one, tests: one.tests.filter(test => test.id === only) })).filter(one => one.tests.length)
for (const one of chosen) for (const test of one.tests) test.dump = only !== undefined

await runTests(chosen, fetchInTurn, false, bases[0])
const results = getResults()

const verdicts = { '✅': 'pass', '⛔️': 'fail', '⚠️': 'fail', Y: 'pass', N: 'fail', '🔹': 'setup', '⚪️': 'dependency', '↻': 'setup', '⁉️': 'setup', '-': 'untested' }
const rows = []
for (const one of chosen) {
  for (const test of one.tests) {
    if (!(test.id in results)) continue // for browsers only
    const verdict = verdicts[determineTestResult(suites, test.id, results, only === undefined)[2]] ?? 'untested'
    const detail = Array.isArray(results[test.id]) ? results[test.id].join(': ') : ''
    rows.push({ suite: one.id, id: test.id, kind: test.kind ?? 'required', verdict, detail })
  }
}
print(JSON.stringify(rows, null, only === undefined ? undefined : 1))
process.exit(0)
