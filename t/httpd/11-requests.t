#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# What a request may say and what is answered: parameters, methods, refusals, headers. No refusal ever asks the upstream.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use JSON::PP ();

my $UUID7 = qr/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/;

my $t = ChatStream::Test->new(
    modules => [qw(filter)],
    config  => chat('/chat', 'sse?tokens=3')
        . chat('/off', 'sse', 'ChatStreamEnabled Off')
        . chat('/short', 'sse?tokens=1', 'ChatStreamMaxMessage 10')
        . chat('/limited', 'sse?tokens=1', 'LimitRequestBody 100')
        # The check at start-up sees SetHandler, but not what mod_mime makes of a name.
        . "AddHandler chatstream .odd\nChatStreamEnabled On\n",
    server_config => 'ChatStreamMaxStreams 100',
);

my $asked = 0;

# What the upstream was asked by the last request.
sub upstream_got
{
    my ($last) = reverse $t->upstream->requests;
    return JSON::PP->new->decode($last->{body});
}

sub asks
{
    my ($name, $expected, $path, %options) = @_;
    my $answer = $t->request($path, %options);
    is $answer->status, 200, "$name: status";
    $asked++;
    my $got = upstream_got();
    is_deeply { map { $_ => $got->{$_} } keys %$expected }, $expected, "$name: what the upstream was asked";
    return $got;
}

sub refused
{
    my ($name, $status, $code, $path, %options) = @_;
    my $answer = $t->request($path, %options);
    is $answer->status, $status, "$name: $status";
    is $answer->header('content-type'), 'application/problem+json', "$name: is a problem document";
    my $problem = eval { $answer->json } || {};
    is_deeply [ sort keys %$problem ], [ sort qw(type title status detail code) ], "$name: with its members";
    is $problem->{status}, $status, "$name: the same status in it";
    is $problem->{code}, $code, "$name: code $code";
    is $answer->header('content-length'), length $answer->body, "$name: of known length";
    return $answer;
}

# ---- parameters ----------------------------------------------------------------------------------------------------------

my $got = asks('query string', { message => "Gr\x{fc}\x{df}e & mehr" }, '/chat?message=Gr%C3%BC%C3%9Fe+%26%20mehr');
is_deeply [ sort keys %$got ], [qw(message stream user)], 'absent fields are left out';
ok $got->{stream}, 'a stream is asked for';
is $got->{user}, '127.0.0.1', 'the user is the client address';
asks('query', { message => 'hello' }, '/chat?query=hello');
asks('message before query', { message => 'm' }, '/chat?message=m&query=q');
asks('message after query', { message => 'm' }, '/chat?query=q&message=m');
asks('twice', { message => 'first' }, '/chat?message=first&message=second');
asks('unknown names', { message => 'm' }, '/chat?x=%zz&message=m&&=&flag&%=1');
my %all = (
    message => "line\nline \x{1F600}", user_email => 'a@example.com', user_role => 'admin', conversation_id => 'c-1',
);
my @history = ({ role => 'user', content => "a \"b\"" }, { role => 'assistant', content => "\x{e9}" }, { role => 'system', content => '' });
asks('JSON', { %all, conversation_history => \@history }, '/chat', json => { %all, conversation_history => \@history });
asks('JSON, history as a string', { message => 'm', conversation_history => \@history },
    '/chat', json => { message => 'm', conversation_history => JSON::PP->new->encode(\@history) });
asks('JSON, query', { message => 'q' }, '/chat', json => { query => 'q' });
asks('JSON, both', { message => 'm' }, '/chat', json => { query => 'q', message => 'm' });
asks('JSON with null members', { message => 'm' }, '/chat', json => { message => 'm', user_email => undef });

sub form { return join '&', map { my ($n, $v) = @$_; utf8::encode($v); $v =~ s/([^A-Za-z0-9])/sprintf '%%%02X', ord $1/ge; "$n=$v" } @_ }
my @form = ((map { [ $_, $all{$_} ] } sort keys %all), [ conversation_history => JSON::PP->new->encode(\@history) ]);
my @form_type = (headers => { 'Content-Type' => 'application/x-www-form-urlencoded' });
asks('form', { %all, conversation_history => \@history }, '/chat', @form_type, body => form(@form));
asks('query string with all', { %all, conversation_history => \@history }, '/chat?' . form(@form));
asks('the body wins', { message => 'body' }, '/chat?message=url', json => { message => 'body' });
asks('the body wins, whatever its name', { message => 'body' }, '/chat?message=url', json => { query => 'body' });
asks('what the body lacks', { message => 'body', user_role => 'r' }, '/chat?user_role=r', @form_type, body => 'message=body');
asks('content type with parameters', { message => 'm' }, '/chat',
    headers => { 'Content-Type' => 'Application/JSON; charset=utf-8' }, body => '{"message":"m"}');
asks('POST without body', { message => 'm' }, '/chat?message=m', method => 'POST', body => '');
asks('GET with a body', { message => 'm' }, '/chat', method => 'GET', @form_type, body => 'message=m');
asks('chunked body', { message => 'chunked' }, '/chat',
    headers => { 'Content-Type' => 'application/json', 'Transfer-Encoding' => 'chunked' }, method => 'POST',
    body => "6\r\n{\"mess\r\nC\r\nage\":\"chunke\r\n3\r\nd\"}\r\n0\r\n\r\n");
asks('message of the allowed length', { message => 'x' x 32768 }, '/chat', json => { message => 'x' x 32768 });
asks('bytes are counted', { message => "\x{20ac}\x{20ac}\x{20ac}x" }, '/short?message=%E2%82%AC%E2%82%AC%E2%82%ACx');

my $trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
my $answer = $t->request('/chat?message=m', headers => { traceparent => $trace });
$asked++;
my ($last) = reverse $t->upstream->requests;
is $last->{headers}{traceparent}, $trace, 'traceparent goes to the upstream';
is $last->{headers}{'x-request-id'}, $answer->header('x-stream-id'), 'X-Request-Id is the stream id';
ok !(grep { /^(?:cookie|authorization|referer|x-forwarded-for)$/ } keys %{ $last->{headers} }), 'nothing else of the client does';

is $t->upstream->count('requests'), $asked, 'each was asked once';

# ---- refusals ------------------------------------------------------------------------------------------------------------

my %json = (headers => { 'Content-Type' => 'application/json' });
refused('no message', 400, 'bad_request', '/chat');
refused('empty message', 400, 'bad_request', '/chat?message=');
refused('blank message', 400, 'bad_request', '/chat?message=+%09%0A%C2%A0%E3%80%80');
refused('blank in JSON', 400, 'bad_request', '/chat', json => { message => " \x{200b}\n" });
refused('invalid UTF-8', 400, 'bad_request', '/chat?message=a%FF');
refused('an overlong form', 400, 'bad_request', '/chat?message=%C0%AF');
refused('a surrogate', 400, 'bad_request', '/chat?message=%ED%A0%80');
refused('half a character', 400, 'bad_request', '/chat?message=%E2%82');
refused('invalid UTF-8 beside the message', 400, 'bad_request', '/chat?message=a&user_role=%FF');
refused('%00', 400, 'bad_request', '/chat?message=a%00b');
refused('bad percent-encoding', 400, 'bad_request', '/chat?message=a%zz');
refused('NUL in JSON', 400, 'bad_request', '/chat', %json, body => '{"message":"a\u0000b"}');
refused('a control character in JSON', 400, 'bad_request', '/chat', %json, body => "{\"message\":\"a\x01b\"}");
refused('invalid UTF-8 in JSON', 400, 'bad_request', '/chat', %json, body => "{\"message\":\"a\xff\"}");
for my $text ('{"message":"a"', '{"message":"a"} x', "{'message':'a'}", '{"message":"a",}', '[]', '"a"', 'null', 'x', '{"message":NaN}') {
    refused("JSON $text", 400, 'bad_request', '/chat', %json, body => $text);
}
refused('JSON nested too deep', 400, 'bad_request', '/chat', %json, body => '{"message":"a","x":' . ('[' x 5000) . (']' x 5000) . '}');
refused('message of a wrong type', 400, 'bad_request', '/chat', json => { message => { a => 1 } });
refused('an unknown role', 400, 'bad_request', '/chat', json => { message => 'a', conversation_history => [ { role => 'root', content => '' } ] });
refused('history without content', 400, 'bad_request', '/chat', json => { message => 'a', conversation_history => [ { role => 'user' } ] });
refused('history of strings', 400, 'bad_request', '/chat', json => { message => 'a', conversation_history => ['hi'] });
refused('history no array', 400, 'bad_request', '/chat', json => { message => 'a', conversation_history => { role => 'user' } });
refused('an unknown role in a string', 400, 'bad_request', '/chat?message=a&' . form([ conversation_history => '[{"role":"x","content":""}]' ]));
refused('history no JSON', 400, 'bad_request', '/chat?message=a&conversation_history=%5B');
refused('an email too long', 400, 'bad_request', '/chat?message=a&user_email=' . 'x' x 400);
refused('a bad Idempotency-Key', 400, 'bad_request', '/chat?message=a', headers => { 'Idempotency-Key' => 'x' x 200 });

refused('a message too long', 413, 'too_large', '/chat', json => { message => 'x' x 32769 });
refused('counted in bytes', 413, 'too_large', '/short?message=%E2%82%AC%E2%82%AC%E2%82%ACxy');
refused('a body too large', 413, 'too_large', '/chat', %json, body => '{"message":"a","x":"' . 'y' x 2_000_000 . '"}');
refused('a chunked body too large', 413, 'too_large', '/chat', method => 'POST',
    headers => { 'Content-Type' => 'application/json', 'Transfer-Encoding' => 'chunked' },
    body => '1f4000' . "\r\n" . 'y' x 0x1f4000 . "\r\n0\r\n\r\n");
refused('LimitRequestBody', 413, 'too_large', '/limited', json => { message => 'x' x 200 });
# Here httpd's own input filter has answered by the time the handler hears of it.
is $t->request('/limited', method => 'POST', headers => { 'Content-Type' => 'application/json', 'Transfer-Encoding' => 'chunked' },
    body => "c8\r\n" . 'x' x 200 . "\r\n0\r\n\r\n")->status, 413, 'LimitRequestBody, chunked: 413';
for my $type ('text/plain', 'multipart/form-data; boundary=x', 'application/jsonx', '') {
    refused("content type '$type'", 415, 'unsupported_media_type', '/chat', headers => [ length $type ? ('Content-Type' => $type) : () ],
        body => '{"message":"a"}');
}
refused('streaming off', 404, 'streaming_disabled', '/off?message=a');
for my $method (qw(PUT PATCH PROPFIND BREW)) {
    my $answer = refused($method, 405, 'method_not_allowed', '/chat?message=a', method => $method, body => '{}');
    is $answer->header('allow'), 'GET, HEAD, POST, DELETE, OPTIONS', "$method: what is allowed";
}
open my $odd, '>', $t->dir . '/htdocs/x.odd' or die $!;
close $odd;
is $t->request('/x.odd?message=a')->status, 500, 'a location without upstream is an error of the configuration';
$t->expect_log(qr/chatstream:error.*no ChatStreamUpstream/);
is $t->upstream->count('requests'), $asked, 'no refusal asked the upstream';

# ---- methods that do not generate ----------------------------------------------------------------------------------------

my $head = $t->request('/chat?message=a', method => 'HEAD');
is $head->status, 200, 'HEAD';
is $head->header('content-type'), 'text/event-stream', 'HEAD says what GET would';
is $t->request('/chat', method => 'HEAD')->status, 400, 'HEAD without a message';
is $t->request('/off?message=a', method => 'HEAD')->status, 404, 'HEAD where streaming is off';
my $options = $t->request('/chat?message=a', method => 'OPTIONS');
is $options->status, 204, 'OPTIONS';
is $options->header('allow'), 'GET, HEAD, POST, DELETE, OPTIONS', 'OPTIONS: Allow';
is $t->upstream->count('requests'), $asked, 'neither asked the upstream';

# HEAD of a stream that still runs must not hang on to it.
$t->upstream->script(wait => "token a\nwait end\ndone\n");
$t->httpd->{config} .= chat('/wait', 'sse?script=wait');
$t->httpd->write_config;
$t->graceful;
my $running = $t->stream('/wait?message=a');
my $id = $running->event_of('token')->{id};
my $peek = $t->request('/wait', method => 'HEAD', headers => { 'Last-Event-ID' => $id });
is $peek->status, 200, 'HEAD with Last-Event-ID answers at once';
is $peek->header('x-stream-id'), $running->header('x-stream-id'), 'and names the stream';
$t->upstream->signal('end');
is $running->next_event->{json}{type}, 'complete', 'the stream itself is not disturbed';

$t->done;
