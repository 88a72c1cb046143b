// The page asks the worker once a second and makes rates of what its counters say.
const byId = (id) => document.getElementById(id);
const ALLOWED = new Set(['included', 'overage', 'unlimited', 'flag']);
const DENIED = new Set(['not_entitled', 'insufficient_balance', 'max_purchase_reached']);
const number = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
const exact = new Intl.NumberFormat('en', { maximumFractionDigits: 12 });

// element('p', { class: 'note' }, 'text', child…): never HTML, so that ids are only text.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? response.statusText);
  return body;
}

const kindOf = (code) => (ALLOWED.has(code) ? 'allowed' : DENIED.has(code) ? 'denied' : 'error');
const duration = (seconds) => (seconds === null ? '–' : seconds < 1 ? `${number.format(seconds * 1000)} ms` : `${number.format(seconds)} s`);
const time = (ms) => new Date(ms).toLocaleString();

// The quantile of what came between two readings of a histogram, null where nothing did.
function quantile(q, before, now) {
  const counts = now.map((bucket, i) => bucket.count - (before[i]?.count ?? 0));
  const total = counts.at(-1) ?? 0;
  if (total === 0) return null;
  const i = counts.findIndex((count) => count >= q * total);
  const low = i > 0 ? now[i - 1].le : 0;
  const below = i > 0 ? counts[i - 1] : 0;
  return low + (now[i].le - low) * ((q * total - below) / (counts[i] - below));
}

const KEPT = 60;
const history = { rate: [], latency: [] };
function draw(svg, values) {
  const most = Math.max(...values.filter((v) => v !== null), 1e-9);
  const points = values.map((v, i) => [KEPT - values.length + i, 29 - (28 * (v ?? 0)) / most]);
  svg.setAttribute('viewBox', `0 0 ${KEPT - 1} 30`);
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', points.map(([x, y], i) => `${i === 0 ? 'M' : 'L'}${x} ${y}`).join(''));
  svg.replaceChildren(path);
}
function keep(values, value) {
  values.push(value);
  if (values.length > KEPT) values.shift();
}

let last = null;
function show(now) {
  byId('about').textContent = `worker ${now.version} · catalogue ${now.catalog}`;
  byId('about').className = '';
  const at = performance.now();
  const sum = (codes, wanted) => Object.entries(codes).reduce((all, [code, n]) => all + (wanted(code) ? n : 0), 0);
  if (last) {
    const seconds = (at - last.at) / 1000;
    const checks = sum(now.checks, () => true) - sum(last.checks, () => true);
    const allowed = sum(now.checks, (c) => ALLOWED.has(c)) - sum(last.checks, (c) => ALLOWED.has(c));
    const p50 = quantile(0.5, last.latency, now.latency);
    const p99 = quantile(0.99, last.latency, now.latency);
    byId('rate').textContent = number.format(checks / seconds);
    byId('latency').textContent = p50 === null ? '–' : `${duration(p50)} / ${duration(p99)}`;
    byId('allowed').textContent = checks > 0 ? `${number.format((100 * allowed) / checks)} %` : '–';
    keep(history.rate, checks / seconds);
    keep(history.latency, p99);
    draw(byId('rate-line'), history.rate);
    draw(byId('latency-line'), history.latency);
  }
  last = { ...now, at };
  const lag = now.lag.reduce((all, { records }) => all + records, 0);
  byId('lag').textContent = now.joined ? exact.format(lag) : '–';
  const worst = now.lag.toSorted((a, b) => b.records - a.records)[0];
  const spread = lag > 0 ? `most in ${worst.topic}/${worst.partition}` : `${now.lag.length} partitions, ${now.in_flight} in flight`;
  byId('lag-note').textContent = !now.joined ? 'not in the consumer group' : now.stuck > 0 ? `${now.stuck} partitions do not go on, see /readyz` : spread;
  byId('trouble').textContent = `${now.dead_letters} dead letters, ${now.retries} retries`;
  byId('no-decision').hidden = now.latest.length > 0;
  byId('latest').replaceChildren(...now.latest.map((d) => element('tr', {},
    element('td', {}, new Date(d.at).toLocaleTimeString()),
    element('td', { class: `code ${kindOf(d.code)}` }, d.code),
    element('td', {}, d.customer_id), element('td', {}, d.feature_id), element('td', {}, d.entity_id ?? ''))));
  byId('check-section').hidden = !now.writable;
  if (byId('features').childElementCount !== now.features.length) {
    byId('features').replaceChildren(...now.features.map((id) => element('option', { value: id })));
  }
}

async function watch() {
  try {
    show(await ask('api/overview'));
  } catch {
    byId('about').textContent = 'the worker does not answer';
    byId('about').className = 'lost';
    last = null;
  }
  setTimeout(watch, 1000);
}

const heldText = (held) => (held > 0 ? ` (${exact.format(held)} held)` : '');

// A pool as bars: what is left of what was included, bought and rolled over.
function poolView(pool) {
  const rolled = pool.rollovers.reduce((all, r) => all + r.remaining, 0);
  const whole = Math.max(pool.granted + rolled, pool.remaining, 1e-12);
  const share = (part, kind) => {
    const slice = element('i', { class: kind });
    slice.style.width = `${(100 * part) / whole}%`;
    return slice;
  };
  const bars = pool.breakdown.map((b) => {
    const own = Math.max(0, b.remaining - pool.rollovers.filter((r) => r.balance_id === b.id).reduce((all, r) => all + r.remaining, 0));
    const prepaid = Math.min(own, b.prepaid_grant);
    return [share(own - prepaid, 'included'), share(prepaid, 'prepaid')];
  }).flat();
  const facts = [];
  if (pool.held > 0 && pool.breakdown.length > 1) facts.push(`${exact.format(pool.held)} held`);
  if (pool.overage_allowed) facts.push(pool.max_purchase === null ? 'overage without bound' : `overage up to ${exact.format(pool.max_purchase)}`);
  if (pool.next_reset_at !== null && pool.breakdown.length > 1) facts.push(`next reset ${time(pool.next_reset_at)}`);
  const left = pool.unlimited ? 'unlimited' : `${exact.format(pool.remaining)} of ${exact.format(pool.granted + rolled)} left`;
  return element('div', { class: 'pool' },
    element('h3', {}, pool.feature_id, element('span', {}, left)),
    pool.unlimited ? null : element('div', { class: 'bar', role: 'img', 'aria-label': `${pool.feature_id}: ${left}` }, ...bars, share(rolled, 'rollover')),
    element('ul', { class: 'parts' },
      ...pool.breakdown.map((b) => element('li', {}, element('b', {}, b.id),
        `${b.unlimited ? 'unlimited' : `${exact.format(b.remaining)} left`}, ${exact.format(b.usage)} used${heldText(b.held)}` +
        (b.prepaid_grant > 0 ? `, ${exact.format(b.prepaid_grant)} bought` : '') +
        (b.reset?.resets_at ? `, resets ${time(b.reset.resets_at)}` : '') + (b.expires_at ? `, expires ${time(b.expires_at)}` : ''))),
      ...pool.rollovers.map((r) => element('li', {}, element('b', {}, `${r.balance_id}, rolled over`),
        `${exact.format(r.remaining)} left${r.expires_at ? `, expires ${time(r.expires_at)}` : ''}`))),
    facts.length > 0 ? element('p', { class: 'note' }, facts.join(' · ')) : null);
}

// What a customer holds, as a table that opens: the soonest to expire first, as the worker lists them.
const LOCKS_SHOWN = 200;
const LOCKS_OPEN = 10; // so few are there without a click
function locksView(locks) {
  if (locks.length === 0) return [];
  const head = ['Lock', 'Holds', 'Feature', 'Entity', 'Expires'].map((title) => element('th', { scope: 'col' }, title));
  const rows = locks.slice(0, LOCKS_SHOWN).map((l) => element('tr', {},
    ...[l.lock_id, exact.format(l.value), l.feature_id, l.entity_id ?? '', time(l.expires_at)].map((text) => element('td', {}, text))));
  const title = `${locks.length} ${locks.length === 1 ? 'lock' : 'locks'}`;
  return [element('details', locks.length > LOCKS_OPEN ? { id: 'locks' } : { id: 'locks', open: '' }, element('summary', {}, title),
    element('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': title },
      element('table', {}, element('thead', {}, element('tr', {}, ...head)), element('tbody', {}, ...rows))),
    locks.length > LOCKS_SHOWN ? element('p', { class: 'note' }, `The first ${LOCKS_SHOWN} are shown.`) : null)];
}

function profileView(result) {
  if (!result.ok) return [element('p', { class: 'problem' }, result.error.message || result.error.code)];
  const { customer, plans, flags, entities, balances, locks = [] } = result;
  const pools = Object.values(balances).map(poolView);
  const facts = [
    [customer.name, customer.email].filter(Boolean).join(', '),
    plans.length > 0 ? `Plans: ${plans.map((p) => p.plan_id + (p.entity_id ? ` (${p.entity_id})` : '')).join(', ')}` : 'No plan',
    Object.keys(flags).length > 0 ? `Flags: ${Object.keys(flags).join(', ')}` : '',
    `Since ${time(customer.created_at)}`,
  ];
  return [
    element('p', { class: 'facts' }, facts.filter(Boolean).join(' · ')),
    ...(pools.length > 0 ? pools : [element('p', { class: 'note' }, 'No balances.')]),
    ...locksView(locks),
    ...(entities.length > 0 ? [element('details', {}, element('summary', {}, `${entities.length} ${entities.length === 1 ? 'entity' : 'entities'}`),
      ...entities.slice(0, 200).map((e) => element('div', {}, element('p', { class: 'facts' }, `${e.entity_id} · takes a seat of ${e.feature_id}${e.name ? ` · ${e.name}` : ''}`),
        ...Object.values(e.balances).map(poolView))),
      entities.length > 200 ? element('p', { class: 'note' }, 'The first 200 are shown.') : null)] : []),
    element('details', {}, element('summary', {}, 'As JSON'), element('pre', {}, JSON.stringify(result, null, 2))),
  ];
}

// busy runs an action with its form's button off, and shows what went wrong in a place.
async function busy(form, place, action) {
  const button = form.querySelector('button');
  button.disabled = true;
  try {
    place.replaceChildren(...(await action()));
  } catch (problem) {
    place.replaceChildren(element('p', { class: 'problem' }, problem.message));
  } finally {
    button.disabled = false;
  }
}

const showCustomer = () => busy(byId('search'), byId('profile'), async () => {
  const id = byId('customer').value;
  const views = profileView(await ask(`api/customers/${encodeURIComponent(id)}`));
  if (!byId('check-customer').value) byId('check-customer').value = id;
  return views;
});

byId('search').addEventListener('submit', (event) => {
  event.preventDefault();
  showCustomer();
});

byId('check').addEventListener('submit', (event) => {
  event.preventDefault();
  busy(byId('check'), byId('answer'), async () => {
    const request = { customer_id: byId('check-customer').value, feature_id: byId('check-feature').value };
    if (byId('check-entity').value) request.entity_id = byId('check-entity').value;
    if (byId('check-send').checked) request.send_event = true;
    if (byId('check-preview').checked) request.with_preview = true;
    // The amount is written as it was typed: no digit is lost on the way.
    const text = JSON.stringify(request).replace(/}$/, `,"required_balance":${byId('check-amount').value}}`);
    const { result, took_ms } = await ask('api/checks', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: text });
    if (byId('customer').value === request.customer_id) showCustomer();
    return [
      element('p', { class: 'facts' }, element('span', { class: `code ${kindOf(result.code)}` }, result.code), ` after ${number.format(took_ms)} ms`,
        result.error ? ` · ${result.error.message}` : ''),
      result.preview ? element('p', { class: 'note' }, `${result.preview.message} ${result.preview.products.map((p) => p.name).join(', ')}`) : '',
      result.balance ? poolView(result.balance) : '',
      element('details', {}, element('summary', {}, 'As JSON'), element('pre', {}, JSON.stringify(result, null, 2))),
    ];
  });
});

document.addEventListener('keydown', (event) => {
  if (event.key === '/' && !['INPUT', 'TEXTAREA'].includes(document.activeElement?.tagName)) {
    event.preventDefault();
    byId('customer').focus();
  }
});

watch();
