import assert from "node:assert/strict";
import { test } from "node:test";
import { anything, parseStrict } from "../schema/strict-json.ts";
import { MetadataService } from "./metadata-service.ts";

const data = parseStrict('{"a":{"b":"text","n":1.0,"list":["x",{"y":"z"}],"c~/d":"odd"},"z":null}', anything);

function service(version: "V1" | "V2", imds_compat = false): (request: string) => string {
  const config = { version, imds_compat, network_interfaces: ["eth0"], ipv4_address: undefined };
  const made = new MetadataService(
    config,
    () => data,
    () => {},
  );
  return (request) => made.receive("c", Buffer.from(request.replaceAll("\n", "\r\n"))).bytes.toString();
}

const bodyOf = (answer: string): string => answer.slice(answer.indexOf("\r\n\r\n") + 4);

test("MetadataService: V1 answers without a token, whatever token there is", () => {
  const ask = service("V1");
  assert.equal(bodyOf(ask("GET /a/b HTTP/1.1\n\n")), "text");
  assert.equal(bodyOf(ask("GET //a///b/ HTTP/1.1\nX-metadata-token: nonsense\n\n")), "text");
  assert.equal(bodyOf(ask("GET http://169.254.169.254/a/b HTTP/1.0\n\n")), "text");
  assert.equal(bodyOf(ask("GET / HTTP/1.1\n\n")), "a/\nz");
  assert.equal(bodyOf(ask("GET /a HTTP/1.1\nAccept: */*\n\n")), "b\nc~/d\nlist\nn");
  assert.equal(bodyOf(ask("GET /a/c~0~1d HTTP/1.1\n\n")), "odd");
  assert.equal(bodyOf(ask("GET /a/list/1/y HTTP/1.1\n\n")), "z");
  assert.match(ask("GET /a/list HTTP/1.1\n\n"), /^HTTP\/1\.1 501 /);
  assert.match(ask("GET /a/list/2 HTTP/1.1\n\n"), /^HTTP\/1\.1 404 /);
});

test("MetadataService: Accept: application/json gives JSON, numbers as they were written, unless imds_compat", () => {
  const request = "GET /a HTTP/1.1\nAccept: application/json\n\n";
  assert.equal(bodyOf(service("V1")(request)), '{"b":"text","c~/d":"odd","list":["x",{"y":"z"}],"n":1.0}');
  assert.equal(bodyOf(service("V1", true)(request)), "b\nc~/d\nlist\nn");
});

test("MetadataService: a request may come in pieces and several at once; what is none ends the connection", () => {
  const ask = service("V1");
  assert.equal(ask("GET /a/b HT"), "");
  assert.equal(bodyOf(ask("TP/1.1\n\n")), "text");
  const one = "GET /a/b HTTP/1.1\n\n";
  assert.equal(ask(one + one).split("HTTP/1.1 200").length, 3);
  assert.match(ask("nonsense\n\n"), /^HTTP\/1\.1 400 /);
  assert.match(ask(`GET /${"x".repeat(9000)}`), /^HTTP\/1\.1 400 /);
  assert.match(ask("PUT /latest/api/token HTTP/1.1\nContent-Length: 99999\n\n"), /^HTTP\/1\.1 400 /);
});

test("MetadataService: V2 takes only tokens of its own that have not expired", (context) => {
  const ask = service("V2");
  const get = (token: string): string => ask(`GET /a/b HTTP/1.1\nX-aws-ec2-metadata-token: ${token}\n\n`);
  const token = bodyOf(ask("PUT /latest/api/token HTTP/1.1\nX-aws-ec2-metadata-token-ttl-seconds: 10\n\n"));
  assert.equal(bodyOf(get(token)), "text");
  assert.match(get(`${token.slice(0, -4)}AAA=`), /^HTTP\/1\.1 401 /);
  const other = bodyOf(service("V2")("PUT /latest/api/token HTTP/1.1\nX-metadata-token-ttl-seconds: 10\n\n"));
  assert.match(get(other), /^HTTP\/1\.1 401 /);
  context.mock.timers.enable({ apis: ["Date"], now: Date.now() + 11_000 });
  assert.match(get(token), /^HTTP\/1\.1 401 /);
});
