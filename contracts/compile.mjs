// Compiles src/ into artifacts/, one JSON file per contract.
//
//   node compile.mjs           writes the artifacts
//   node compile.mjs --check   writes nothing; exit code 1 and the differences when they are stale
//
// The output is a function of the sources and the pinned packages alone: the same bytes on every
// machine and from every folder.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
const ARTIFACTS = join(HERE, "artifacts");
const CONTRACTS = ["HokusaiToken", "ModelRegistry", "TokenManager"];

const MAX_RUNTIME_BYTES = 24_576; // https://eips.ethereum.org/EIPS/eip-170
const MAX_INITCODE_BYTES = 49_152; // https://eips.ethereum.org/EIPS/eip-3860

const SETTINGS = {
  // The newest rules that all targets have had for long: Ethereum and Sepolia since early 2023,
  // Polygon PoS since early 2024, anvil and Hardhat node by default. Paris would run on still older
  // chains for larger code; cancun would shut out chains without blobs for a little less gas.
  evmVersion: "shanghai",
  // No hash of the metadata in the bytecode: it would change the code, and with it every CREATE2
  // address, with a comment or a file name.
  metadata: { bytecodeHash: "none" },
  // The legacy pipeline: a token's deployment, which is what costs, takes 3 % less gas than viaIR.
  optimizer: { enabled: true, runs: 200 },
  viaIR: false,
};

function main(args) {
  const unknown = args.filter((arg) => arg !== "--check");
  if (unknown.length > 0)
    throw new Failure(`unknown argument ${unknown[0]}; there is only --check`);
  const artifacts = compile(loadCompiler());
  if (!args.includes("--check")) return write(artifacts);
  const differences = compare(artifacts);
  if (differences.length > 0)
    throw new Failure([...differences, "run: node contracts/compile.mjs"].join("\n"));
  return undefined;
}

/** What the reader can mend: told in one line, without a stack. */
class Failure extends Error {}

/** The compiler of node_modules, refused when it is not the pinned one. */
function loadCompiler() {
  const pinned = JSON.parse(readFileSync(join(HERE, "package.json"), "utf8")).devDependencies;
  for (const name of ["solc", "@openzeppelin/contracts"]) {
    const installed = installedVersion(name);
    if (installed !== pinned[name])
      throw new Failure(`${name} ${installed} is installed, ${pinned[name]} is pinned: run npm ci`);
  }
  return createRequire(import.meta.url)("solc");
}

function installedVersion(name) {
  const manifest = join(HERE, "node_modules", name, "package.json");
  try {
    return JSON.parse(readFileSync(manifest, "utf8")).version;
  } catch {
    throw new Failure(`${name} is not installed: run npm ci`);
  }
}

/** Artifact texts by contract name. Throws Failure on any error or warning of the compiler. */
function compile(solc) {
  const input = {
    language: "Solidity",
    sources: Object.fromEntries(
      CONTRACTS.map((name) => [sourceName(name), { content: readSource(sourceName(name)) }]),
    ),
    settings: {
      ...SETTINGS,
      outputSelection: {
        "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "metadata"] },
      },
    },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: resolveImport }));
  const problems = (output.errors ?? []).map((problem) => problem.formattedMessage);
  if (problems.length > 0) throw new Failure(problems.join("\n"));
  return new Map(
    CONTRACTS.map((name) => {
      const artifact = describe(name, output.contracts[sourceName(name)][name], solc.version());
      refuseOversize(artifact);
      return [name, `${JSON.stringify(artifact, null, 2)}\n`];
    }),
  );
}

function sourceName(contract) {
  return `src/${contract}.sol`;
}

/** A source by the name the compiler knows it by, which never holds a machine's path. */
function readSource(name) {
  const path = name.startsWith("src/") ? name : join("node_modules", name);
  return readFileSync(join(HERE, path), "utf8");
}

function resolveImport(name) {
  try {
    return { contents: readSource(name) };
  } catch {
    return { error: `${name} not found` };
  }
}

function describe(contractName, compiled, solcVersion) {
  return {
    contractName,
    sourceName: sourceName(contractName),
    solcVersion,
    settings: SETTINGS,
    sourceHash: hashSources(Object.keys(JSON.parse(compiled.metadata).sources)),
    abi: compiled.abi,
    bytecode: `0x${compiled.evm.bytecode.object}`,
    deployedBytecode: `0x${compiled.evm.deployedBytecode.object}`,
  };
}

/** SHA-256 over name and content of each file, each after its length, in the order of the names. */
function hashSources(names) {
  const hash = createHash("sha256");
  for (const part of [...names].sort().flatMap((name) => [name, readSource(name)]))
    hash.update(`${Buffer.byteLength(part)}:`).update(part);
  return hash.digest("hex");
}

function refuseOversize({ contractName, bytecode, deployedBytecode }) {
  for (const [what, code, limit] of [
    ["runtime code", deployedBytecode, MAX_RUNTIME_BYTES],
    ["creation code", bytecode, MAX_INITCODE_BYTES],
  ])
    if (byteLength(code) > limit)
      throw new Failure(`${contractName}: ${what} is ${byteLength(code)} bytes, limit ${limit}`);
}

function byteLength(hex) {
  return (hex.length - 2) / 2;
}

function write(artifacts) {
  mkdirSync(ARTIFACTS, { recursive: true });
  for (const file of strangers(artifacts)) rmSync(join(ARTIFACTS, file));
  for (const [name, text] of artifacts) {
    writeFileSync(join(ARTIFACTS, `${name}.json`), text);
    const { bytecode, deployedBytecode } = JSON.parse(text);
    console.log(
      `artifacts/${name}.json: runtime ${byteLength(deployedBytecode)} bytes, ` +
        `creation ${byteLength(bytecode)} bytes`,
    );
  }
}

/** One line per artifact that is not what write() would leave. */
function compare(artifacts) {
  const lines = strangers(artifacts).map((file) => `artifacts/${file}: no source`);
  for (const [name, text] of artifacts) {
    const difference = differenceOf(text, stored(name));
    if (difference !== null) lines.push(`artifacts/${name}.json: ${difference}`);
  }
  return lines;
}

function stored(name) {
  try {
    return readFileSync(join(ARTIFACTS, `${name}.json`), "utf8");
  } catch {
    return null;
  }
}

function differenceOf(fresh, old) {
  if (old === null) return "missing";
  if (old === fresh) return null;
  const [freshKeys, oldKeys] = [fresh, old].map(parseObject);
  if (oldKeys === null) return "not a JSON object";
  const keys = [...new Set([...Object.keys(freshKeys), ...Object.keys(oldKeys)])];
  const differing = keys.filter(
    (key) => JSON.stringify(freshKeys[key]) !== JSON.stringify(oldKeys[key]),
  );
  return `${differing.join(", ") || "layout"} differs`;
}

function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

/** Files in artifacts/ that no contract of ours makes. */
function strangers(artifacts) {
  let files;
  try {
    files = readdirSync(ARTIFACTS);
  } catch {
    return [];
  }
  return files.filter((file) => file.endsWith(".json") && !artifacts.has(file.slice(0, -5))).sort();
}

try {
  main(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof Failure ? error.message : error);
  process.exitCode = 1;
}
