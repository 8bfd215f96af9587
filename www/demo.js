// SPDX-License-Identifier: Apache-2.0
//
// The whole client: one EventSource per question. When the connection is lost the browser itself comes back with
// Last-Event-ID, and the module goes on after that event, so there is nothing about resuming in here but the display.
'use strict';

const ENDPOINT = 'api/v1/chat/stream';
const $ = (id) => document.getElementById(id);
const chat = $('chat');
const form = $('form');
const question = $('question');
const main = document.querySelector('main');

let running = null;

function setState(state, text) {
  $('state').dataset.state = state;
  $('state').textContent = text;
}

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text; // never as markup: neither question nor answer is ours
  return node;
}

// Follows the answer down, unless the reader has scrolled up to read.
function following(change) {
  const atEnd = main.scrollHeight - main.scrollTop - main.clientHeight < 48;
  change();
  if (atEnd) main.scrollTop = main.scrollHeight;
}

const milliseconds = (value) => (value === null || value === undefined ? '–' : value < 1000 ? `${value} ms` : `${(value / 1000).toFixed(2)} s`);

class Answer {
  constructor(message) {
    this.text = document.createTextNode('');
    this.reconnects = 0;
    this.id = null;
    this.over = false;

    this.item = element('li', 'running');
    const body = element('p', 'answer');
    body.append(this.text);
    body.setAttribute('aria-live', 'polite');
    body.setAttribute('aria-busy', 'true');
    this.body = body;
    this.item.append(body);
    const asked = element('li');
    asked.append(element('p', 'question', message));
    chat.append(asked, this.item);

    this.source = new EventSource(`${ENDPOINT}?message=${encodeURIComponent(message)}`);
    this.source.onopen = () => setState('open', this.reconnects ? `connected, ${this.reconnects}× resumed` : 'connected');
    this.source.onmessage = (event) => this.receive(JSON.parse(event.data));
    this.source.addEventListener('heartbeat', () => setState('open', 'connected, waiting for the model'));
    this.source.onerror = () => this.lost();
    setState('connecting', 'connecting');
  }

  receive(data) {
    switch (data.type) {
      case 'start':
        this.id = data.stream_id;
        break;
      case 'token':
        following(() => this.text.appendData(data.content));
        setState('open', this.reconnects ? `answering, ${this.reconnects}× resumed` : 'answering');
        break;
      case 'gap':
        this.note(`events ${data.from} to ${data.to} are no longer kept`);
        break;
      case 'complete':
        this.figures(data);
        this.end('idle', 'ready');
        break;
      case 'error':
        if (data.code === 'cancelled') {
          this.note('stopped');
          this.end('idle', 'ready');
        } else {
          this.note(`${data.message} (${data.code})`, true);
          this.end('failed', 'the stream failed');
        }
        break;
      // Metadata and types of later versions are not for this page.
    }
  }

  lost() {
    if (this.over) return;
    if (this.source.readyState === EventSource.CONNECTING) {
      this.reconnects += 1;
      setState('reconnecting', 'connection lost, resuming');
      return;
    }
    // The server answered, but not with a stream, and EventSource does not say with what.
    this.note('The server did not open a stream.', true);
    this.end('failed', 'no connection');
  }

  async cancel() {
    if (this.over) return;
    setState('connecting', 'stopping');
    if (!this.id) {
      // Nothing has come yet, so there is no id to name; leaving ends it after the grace time.
      this.note('stopped');
      this.end('idle', 'ready');
      return;
    }
    try {
      const answer = await fetch(`${ENDPOINT}?stream_id=${encodeURIComponent(this.id)}`, { method: 'DELETE' });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
    } catch (error) {
      if (!this.over) {
        this.note(`could not stop it: ${error.message}`, true);
        this.end('failed', 'not stopped');
      }
    }
    // The error event "cancelled" ends the display: it comes to every tab that reads this stream.
  }

  figures({ finish_reason: reason, usage, metrics = {} }) {
    const list = element('dl', 'figures');
    const rows = [
      ['first token', milliseconds(metrics.first_token_ms)],
      ['in all', milliseconds(metrics.duration_ms)],
      ['tokens', String(metrics.tokens ?? '–')],
      ['ended', reason ?? '–'],
    ];
    if (usage) rows.push(['usage', `${usage.prompt_tokens ?? '–'} + ${usage.completion_tokens ?? '–'}`]);
    if (this.reconnects) rows.push(['resumed', `${this.reconnects}×`]);
    for (const [name, value] of rows) {
      const row = element('div');
      row.append(element('dt', '', name), element('dd', '', value));
      list.append(row);
    }
    following(() => this.item.append(list));
  }

  note(text, isError = false) {
    const node = element('p', isError ? 'note error' : 'note', text);
    if (isError) node.setAttribute('role', 'alert');
    following(() => this.item.append(node));
  }

  end(state, text) {
    if (this.over) return;
    this.over = true;
    this.source.close();
    this.item.classList.remove('running');
    this.body.setAttribute('aria-busy', 'false');
    setState(state, text);
    if (running === this) running = null;
    $('cancel').hidden = true;
    $('send').hidden = false;
    question.focus();
  }
}

function grow() {
  question.style.height = 'auto';
  question.style.height = `${question.scrollHeight + 2}px`;
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  const message = question.value.trim();
  if (running || message === '') return;
  $('hint').hidden = true;
  question.value = '';
  grow();
  running = new Answer(message);
  main.scrollTop = main.scrollHeight;
  $('send').hidden = true;
  $('cancel').hidden = false;
});

question.addEventListener('input', grow);
question.addEventListener('keydown', (event) => {
  // isComposing: Enter that ends the input of a composed character is not a wish to send.
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && running) running.cancel();
});
$('cancel').addEventListener('click', () => running?.cancel());
