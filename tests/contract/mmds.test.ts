// /mmds and /mmds/config before the start.
import { get, patch, put, type Row, refused, sequence } from "./harness/rows.ts";

const limit = 51200;
const text = (bytes: number): string => JSON.stringify({ a: "x".repeat(bytes - '{"a":""}'.length) });
const shows = (json: string): Row => ({ send: "GET /mmds", status: 200, shows: JSON.parse(json) });

sequence("mmds: the store before the start", [
  shows("{}"),
  refused("PATCH /mmds", { a: 1 }, /not initialized/),
  refused("PUT /mmds", undefined, /Empty PUT request/),
  refused("PUT /mmds", "{", /EOF while parsing an object/),
  refused("PUT /mmds/x", {}, /PUT request path `x`/),
  refused("GET /mmds", {}, /GET request cannot have a body/),
  put("/mmds", { b: { c: 1, d: [1, 2] }, a: "é" }),
  get("/mmds", { b: { c: 1, d: [1, 2] }, a: "é" }),
  // A merge patch: null removes, objects are merged, all else replaced.
  patch("/mmds", { b: { c: null, d: [3], e: { f: null, g: 1 } }, x: null }),
  get("/mmds", { a: "é", b: { d: [3], e: { g: 1 } } }),
  patch("/mmds", { b: 5 }),
  get("/mmds", { a: "é", b: 5 }),
  // It need not be an object.
  put("/mmds", [1]),
  get("/mmds", [1]),
  patch("/mmds", { a: 1 }),
  get("/mmds", { a: 1 }),
  put("/mmds", "null"),
  shows("{}"),
]);

sequence("mmds: the store has a size", [
  put("/mmds", text(limit)),
  { ...refused("PATCH /mmds", { b: 1 }, /limit/i), status: 413 },
  put("/mmds", {}),
  patch("/mmds", text(limit)),
  refused("PUT /mmds", text(limit + 1), new RegExp(`${limit + 1}.* limit of ${limit}`), { key: "error" }),
]);

sequence(
  "mmds: --mmds-size-limit and --http-api-max-payload-size",
  [
    put("/mmds", text(10)),
    { ...refused("PUT /mmds", text(11), /limit/i), status: 413 },
    { ...refused("PUT /mmds", text(100), /limit/i), status: 413 },
    refused("PUT /mmds", text(101), /101.* limit of 100/, { key: "error" }),
  ],
  ["--mmds-size-limit", "10", "--http-api-max-payload-size", "100"],
);

const tap = `cm${process.pid % 1_000_000}`;
const config = (more: object, rest: Partial<Row> = {}): Row =>
  put("/mmds/config", { network_interfaces: ["n"], version: "V2", ...more }, 204, rest);
const wrong = (more: object, says: RegExp, rest: Partial<Row> = {}): Row =>
  refused("PUT /mmds/config", { network_interfaces: ["n"], version: "V2", ...more }, says, rest);

sequence("mmds/config: which interfaces it answers on", [
  wrong({}, /network interface/),
  put("/network-interfaces/n", { iface_id: "n", host_dev_name: `${tap}n` }),
  put("/network-interfaces/m", { iface_id: "m", host_dev_name: `${tap}m` }),
  refused("PUT /mmds/config", {}, /missing field `network_interfaces`/),
  wrong({ network_interfaces: [] }, /empty/),
  wrong({ network_interfaces: ["n", "x"] }, /network interface/),
  wrong({ network_interfaces: "n" }, /string \\"n\\", expected a sequence/),
  wrong({ network_interfaces: [5] }, /integer `5`, expected a string/),
  wrong({ version: "V3" }, /unknown variant `V3`.*`V1` or `V2`/),
  wrong({ version: null }, /line 1 column/),
  wrong({ imds_compat: 1 }, /integer `1`, expected a boolean/),
  wrong({ x: 1 }, /unknown field `x`/),
  get("/vm/config", { "mmds-config": null }),
  config({ network_interfaces: ["m", "n", "m"], imds_compat: true }),
  get("/vm/config", {
    "mmds-config": {
      version: "V2",
      network_interfaces: ["n", "m"],
      ipv4_address: "169.254.169.254",
      imds_compat: true,
    },
  }),
  config({ network_interfaces: ["n"], ipv4_address: "169.254.1.1" }),
  get("/vm/config", {
    "mmds-config": { network_interfaces: ["n"], ipv4_address: "169.254.1.1", imds_compat: false },
  }),
  ...["169.254.0.1", "169.254.255.1", "10.0.0.1"].map((ipv4_address) =>
    wrong({ ipv4_address }, /IPv4 address.*link local/),
  ),
  ...["169.254.1", "169.254.1.01", "x", ""].map((ipv4_address) => wrong({ ipv4_address }, /IPv4 address/)),
  // Version 1 is deprecated, and the default.
  config({ version: "V1" }, { isDeprecated: true }),
  put("/mmds/config", { network_interfaces: ["n"] }, 204, { isDeprecated: true }),
  wrong({ version: "V1", network_interfaces: [] }, /empty/, { isDeprecated: true }),
  // An interface that takes another's place begins without.
  put("/network-interfaces/n", { iface_id: "n", host_dev_name: `${tap}n` }),
  get("/vm/config", { "mmds-config": null }),
]);
