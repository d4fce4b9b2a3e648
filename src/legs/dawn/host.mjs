// Dawn behind pipes: takes one request at a time from stdin, answers it on stdout, ends with stdin.
//
// A message is the bytes of its JSON (u32) and of its data (u64), little-endian, then both. The
// answer's JSON is {error: {kind, message, line}} where a request fails; kind is `shader`, with a
// line of the text where there is one, `adapter` or `device`.
//
// open      {backend}                      -> {info, features, limits}
// pipeline  {label, text, bindings}        -> {}; pipelines are numbered as they are made
// run       {buffers: [{bytes, uniform, read_back}], steps: [{pipeline, grid, buffers}]}
//           data: all buffers' contents    -> data: those of the buffers that are read back
//
// Arguments: the folder that has node_modules/webgpu.

import { readSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const HEAD_BYTES = 12;
const FEATURES = ['subgroups', 'shader-f16', 'timestamp-query'];
const LIMITS = [
  'maxBufferSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupsPerDimension',
  'maxComputeWorkgroupStorageSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
];
const SCOPES = ['out-of-memory', 'internal', 'validation'];

class Failure extends Error {
  constructor(kind, message, line = null) {
    super(message);
    Object.assign(this, { kind, line });
  }
}

// The package does not keep these alive by itself: a collected one takes the process with it.
const gpu = { instance: null, adapter: null, device: null, lost: null, pipelines: [] };

async function open({ backend }) {
  const resolve = createRequire(join(process.argv[1], 'resolve.js')).resolve;
  const { create, globals } = await import(pathToFileURL(resolve('webgpu')));
  Object.assign(globalThis, globals);
  gpu.instance = create([`backend=${backend}`]);
  gpu.adapter = await gpu.instance
    .requestAdapter({ powerPreference: 'high-performance' })
    .catch(() => null);
  if (!gpu.adapter) throw new Failure('adapter', `no ${backend} adapter that Dawn accepts`);
  const features = FEATURES.filter((name) => gpu.adapter.features.has(name));
  const limits = Object.fromEntries(LIMITS.map((name) => [name, gpu.adapter.limits[name]]));
  gpu.device = await gpu.adapter.requestDevice({
    requiredFeatures: features,
    requiredLimits: limits,
  });
  gpu.device.lost.then(({ message }) => { gpu.lost = message; });
  const { vendor, architecture, device, description } = gpu.adapter.info;
  const { subgroupMinSize, subgroupMaxSize, isFallbackAdapter } = gpu.adapter.info;
  const info = { vendor, architecture, device, description };
  return [{
    info: { ...info, subgroupMinSize, subgroupMaxSize, isFallbackAdapter },
    features,
    limits,
  }];
}

// Runs `work` and turns any error of the device into a Failure. What `work` throws says more.
async function scoped(kind, work) {
  SCOPES.forEach((scope) => gpu.device.pushErrorScope(scope));
  const result = await work().catch((thrown) => ({ thrown }));
  const errors = await Promise.all(SCOPES.map(() => gpu.device.popErrorScope()));
  const error = errors.find((e) => e);
  if (gpu.lost !== null) throw new Failure('device', `device lost: ${gpu.lost}`);
  if (result.thrown) throw result.thrown;
  if (error) throw new Failure(kind, error.message);
  return result;
}

async function pipeline({ label, text, bindings }) {
  const entries = bindings.map((type, binding) => (
    { binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } }
  ));
  gpu.pipelines.push(await scoped('shader', async () => {
    const module = gpu.device.createShaderModule({ label, code: text });
    const { messages } = await module.getCompilationInfo();
    const error = messages.find((message) => message.type === 'error');
    if (error) throw new Failure('shader', error.message, error.lineNum);
    const layout = gpu.device.createBindGroupLayout({ label, entries });
    return gpu.device.createComputePipelineAsync({
      label,
      layout: gpu.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: 'main' },
    }).catch((e) => { throw new Failure('shader', e.message); });
  }));
  return [{}];
}

// A buffer with its contents.
function filled({ bytes, uniform }, contents) {
  const usage = uniform
    ? GPUBufferUsage.UNIFORM
    : GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
  const buffer = gpu.device.createBuffer({ size: bytes, usage, mappedAtCreation: true });
  new Uint8Array(buffer.getMappedRange()).set(contents);
  buffer.unmap();
  return buffer;
}

function dispatch(pass, buffers, step) {
  const pipeline = gpu.pipelines[step.pipeline];
  const entries = step.buffers.map((index, binding) => (
    { binding, resource: { buffer: buffers[index] } }
  ));
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, gpu.device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries,
  }));
  pass.dispatchWorkgroups(...step.grid);
}

async function contents(buffer) {
  await buffer.mapAsync(GPUMapMode.READ);
  const bytes = Buffer.from(buffer.getMappedRange().slice(0));
  buffer.unmap();
  return bytes;
}

async function run({ buffers: wanted, steps }, data) {
  const made = [];
  const keep = (buffer) => { made.push(buffer); return buffer; };
  try {
    return await scoped('device', async () => {
      let at = 0;
      const buffers = wanted.map((w) => keep(filled(w, data.subarray(at, at += w.bytes))));
      const encoder = gpu.device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      steps.forEach((step) => dispatch(pass, buffers, step));
      pass.end();
      const copies = [];
      wanted.forEach(({ bytes, read_back: readBack }, index) => {
        if (!readBack) return;
        const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
        copies.push(keep(gpu.device.createBuffer({ size: bytes, usage })));
        encoder.copyBufferToBuffer(buffers[index], 0, copies.at(-1), 0, bytes);
      });
      gpu.device.queue.submit([encoder.finish()]);
      const read = [];
      for (const copy of copies) read.push(await contents(copy));
      return [{}, Buffer.concat(read)];
    });
  } finally {
    made.forEach((buffer) => buffer.destroy());
  }
}

// The next `count` bytes of stdin; null at its end.
function take(count) {
  const bytes = Buffer.alloc(count);
  for (let at = 0; at < count;) {
    const got = readSync(0, bytes, at, count - at, null);
    if (got === 0) return null;
    at += got;
  }
  return bytes;
}

function receive() {
  const head = take(HEAD_BYTES);
  const json = head && take(head.readUInt32LE(0));
  const data = json && take(Number(head.readBigUInt64LE(4)));
  return data && { request: JSON.parse(json), data };
}

function send(answer, data = Buffer.alloc(0)) {
  const json = Buffer.from(JSON.stringify(answer));
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32LE(json.length, 0);
  head.writeBigUInt64LE(BigInt(data.length), 4);
  for (const part of [head, json, data]) {
    for (let at = 0; at < part.length;) at += writeSync(1, part, at);
  }
}

const operations = { open, pipeline, run };
for (let next = receive(); next; next = receive()) {
  try {
    send(...await operations[next.request.op](next.request, next.data));
  } catch (e) {
    send({ error: { kind: e.kind ?? 'device', message: e.message, line: e.line ?? null } });
  }
}
// Not process.exit: Dawn's destructors run in no safe order.
process.reallyExit(0);
