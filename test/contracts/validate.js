// Validates docs/contracts/asyncapi.yaml with AsyncAPI's own parser: make contracts
import { Parser, fromFile } from '@asyncapi/parser';

const file = new URL('../../docs/contracts/asyncapi.yaml', import.meta.url).pathname;
const { document, diagnostics } = await fromFile(new Parser(), file).parse();
const errors = diagnostics.filter((d) => d.severity === 0);
for (const d of diagnostics) console.log(`${['error', 'warning', 'information', 'hint'][d.severity]} ${d.path.join('.')}: ${d.message}`);
if (errors.length > 0 || !document) process.exit(1);
const messages = document.messages().all();
console.log(`asyncapi: ${document.channels().all().length} channels, ${messages.length} messages, valid`);
if (messages.some((m) => !m.payload())) process.exit(1);
