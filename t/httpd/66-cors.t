#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# CORS: what browsers ask before and with a request, who may read the answer, and that failures can be read too.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Token;

my $APP = 'https://app.example.com';
my $EVIL = 'https://evil.example.com';

my $t = ChatStream::Test->new(
    start => 0, http2 => 1, modules => [qw(authz_user authn_core authn_file auth_basic)], server_config => 'ChatStreamMaxStreams 3',
);
my $key = ChatStream::Token->new('HS256', dir => $t->dir);
my $jwt = 'ChatStreamJWTKey HS256 ' . $key->file;
open my $file, '>', $t->dir . '/conf/passwords' or die;
close $file;
my $cors = "ChatStreamCORS $APP http://localhost:3000";
$t->httpd->{config} = patient()
    . chat('/app',      'sse?tokens=2', $cors)
    . chat('/all',      'sse?tokens=2', 'ChatStreamCORS *')
    . chat('/none',     'sse?tokens=2')
    . chat('/off',      'sse?tokens=2', $cors, 'ChatStreamCORS off')
    . chat('/upper',    'sse?tokens=2', 'ChatStreamCORS HTTPS://App.Example.COM')
    . chat('/required', 'sse?tokens=2', $cors, $jwt, 'ChatStreamAuth required')
    . chat('/valid',    'sse?tokens=2', $cors, $jwt, 'Require valid-user')
    . chat('/basic',    'sse?tokens=2', $cors, 'AuthType Basic', 'AuthName here', 'AuthBasicProvider file',
        'AuthUserFile ' . $t->dir . '/conf/passwords', 'Require valid-user')
    . chat('/denied',   'sse?tokens=2', $cors, 'Require all denied')
    . chat('/disabled', 'sse?tokens=2', $cors, 'ChatStreamEnabled Off')
    . chat('/out',      'sse?tokens=2', $cors, 'ChatStreamRollout 0')
    . chat('/limited',  'sse?tokens=2', $cors, 'ChatStreamRateLimit 1/60')
    . chat('/broken',   'sse?status=500', $cors)
    . chat('/wait',     'sse?script=wait', $cors, 'ChatStreamMaxPerUser 1', 'ChatStreamOnDisconnect abort 0')
    . chat('/full',     'sse?script=wait', $cors, 'ChatStreamOnDisconnect abort 0')
    . qq(<Location "/whole">\nSetHandler chatstream-complete\nChatStreamUpstream "\${UPSTREAM}/sse?tokens=2"\n$cors\n</Location>\n)
    . qq(<Location "/health">\nSetHandler chatstream-health\n$cors\n</Location>\n);
$t->start;
$t->upstream->script(wait => "token a\nwait end\ndone\n");
$t->allow_log(qr/AH0163[01]:|AH01614:|AH00135:|AH01617:|AH01618:/, qr/ended as error \(upstream_error\)/, qr/upstream .*500/);

# As Chromium sends it: names in lower case, sorted, without blanks.
sub preflight
{
    my ($path, $origin, $method, $names, %options) = @_;
    return $t->request($path, method => 'OPTIONS', headers => [
        Accept => '*/*', 'Access-Control-Request-Method' => $method,
        defined $names ? ('Access-Control-Request-Headers' => $names) : (),
        Origin => $origin, 'Sec-Fetch-Mode' => 'cors', 'Sec-Fetch-Site' => 'cross-site', 'Sec-Fetch-Dest' => 'empty',
    ], %options);
}

# The check a browser makes (Fetch, "CORS-preflight fetch").
sub grants
{
    my ($answer, $origin, $method, $names) = @_;
    return 'status ' . $answer->status if $answer->status < 200 || $answer->status > 299;
    my $allowed = $answer->header('access-control-allow-origin') // '(none)';
    return "origin $allowed" if $allowed ne $origin && $allowed ne '*';
    my %methods = map { $_ => 1 } split /,\s*/, $answer->header('access-control-allow-methods') // '';
    return 'methods ' . join ' ', keys %methods if !$methods{$method} && $method !~ /^(?:GET|HEAD|POST)$/;
    my %headers = map { lc $_ => 1 } split /,\s*/, $answer->header('access-control-allow-headers') // '';
    my @missing = grep { !$headers{$_} } split /,/, $names // '';
    return @missing ? "headers without @missing" : 'yes';
}

sub readable
{
    my ($answer, $name, $origin) = @_;
    $origin //= $APP;
    is $answer->header('access-control-allow-origin'), $origin, "$name: the page may read it";
    is $answer->header('access-control-allow-credentials'), 'true', "$name: with credentials";
    like $answer->header('vary') // '', qr/(?:^|, )Origin(?:,|$)/, "$name: caches are told";
    like $answer->header('access-control-expose-headers') // '', qr/\bX-Stream-Id\b.*\bRetry-After\b.*\bRateLimit-Remaining\b/, "$name: headers too";
    return $answer;
}

# ---- preflights ------------------------------------------------------------------------------------------------------------

my %requests = (
    'fetch with a token'  => ['GET', 'authorization'],
    'fetch, POST'         => ['POST', 'authorization,content-type,idempotency-key'],
    'fetch that resumes'  => ['GET', 'authorization,cache-control,last-event-id,x-connection-id'],
    'fetch that cancels'  => ['DELETE', 'authorization,x-stream-id'],
    'every header of ours' => ['POST', 'authorization,content-type,idempotency-key,last-event-id,x-connection-id,x-user-id'],
    'the OpenAI SDK'      => ['POST', 'authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-package-version,'
            . 'x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout'],
    'the AI SDK'          => ['POST', 'content-type,user-agent'],
    'traces'              => ['POST', 'content-type,traceparent,tracestate'],
    'nothing special'     => ['DELETE', undef],
);
for my $name (sort keys %requests) {
    my ($method, $names) = @{ $requests{$name} };
    for my $path ('/app', '/all', '/required', '/valid', '/basic', '/disabled', '/limited', '/whole') {
        my $answer = preflight($path, $APP, $method, $names);
        is grants($answer, $APP, $method, $names), 'yes', "$name, $path: the preflight is granted, without a token";
    }
    is grants(preflight('/app', $APP, $method, $names, http2 => 1), $APP, $method, $names), 'yes', "$name: over HTTP/2 too";
}
my $answer = preflight('/app', $APP, 'GET', 'authorization');
is $answer->status, 204, 'its answer is empty';
is $answer->body, '', 'really';
cmp_ok $answer->header('access-control-max-age'), '>', 0, 'and may be kept';
like $answer->header('vary'), qr/\bOrigin\b/, 'for this origin';
is $answer->header('access-control-allow-credentials'), 'true', 'with credentials';
is grants(preflight('/app', 'http://localhost:3000', 'GET', 'authorization'), 'http://localhost:3000', 'GET', 'authorization'), 'yes', 'the second origin as well';
is grants(preflight('/upper', $APP, 'GET', 'authorization'), $APP, 'GET', 'authorization'), 'yes', 'an origin has no case in the configuration';
is grants(preflight('/app', $APP, 'GET', 'x-evil'), $APP, 'GET', 'x-evil'), 'headers without x-evil', 'a header nobody knows is not granted';
unlike preflight('/app', $APP, 'GET', "x-stainless-a\tb,x-stainless-<script>")->header('access-control-allow-headers'), qr/[<>\t]/,
    'nothing but names comes back';
my $many = join ',', map { "x-stainless-$_" . 'y' x 60 } 1 .. 60;
is preflight('/app', $APP, 'GET', $many)->status, 204, 'many names do no harm';
is $t->upstream->count('requests'), 0, 'the upstream heard of none of these';

for my $origin ($EVIL, "$APP.evil.example.com", "$APP:444", 'http://app.example.com', 'https://APP.example.com', 'null', "$APP/") {
    my $denied = preflight('/app', $origin, 'GET', 'authorization');
    is $denied->header('access-control-allow-origin'), undef, "$origin is another origin";
    is $denied->header('access-control-allow-headers'), undef, 'and granted nothing';
    like $denied->header('vary'), qr/\bOrigin\b/, 'caches are told all the same';
}

# ---- requests --------------------------------------------------------------------------------------------------------------

my @from = (headers => [ Origin => $APP ]);
for my $how ([], [ http2 => 1 ]) {
    my $name = @$how ? 'HTTP/2' : 'HTTP/1.1';
    $answer = readable($t->request('/app?message=hi', headers => [ Origin => $APP, Accept => 'text/event-stream', 'Sec-Fetch-Mode' => 'cors' ], @$how), "EventSource, $name");
    is $answer->status, 200, "EventSource, $name: no preflight, and streams";
    is scalar(grep { ($_->{json}{type} // '') eq 'token' } $answer->events), 2, "EventSource, $name: all of it";

    $answer = $t->request('/app?message=hi', headers => [ Origin => $EVIL ], @$how);
    is $answer->header('access-control-allow-origin'), undef, "another page, $name: may not read";
    is $answer->header('access-control-allow-credentials'), undef, "another page, $name: nor with credentials";
    like $answer->header('vary'), qr/\bOrigin\b/, "another page, $name: Vary";

    $answer = $t->request('/app?message=hi', @$how);
    is $answer->status, 200, "no origin, $name: a program";
    is $answer->header('access-control-allow-origin'), undef, "no origin, $name: nothing to say";
    like $answer->header('vary'), qr/\bOrigin\b/, "no origin, $name: but a cache must not give this to a page";

    $answer = $t->request('/all?message=hi', headers => [ Origin => $EVIL ], @$how);
    is $answer->header('access-control-allow-origin'), '*', "*, $name: everybody may read";
    is $answer->header('access-control-allow-credentials'), undef, "*, $name: never with credentials";
    ok defined $answer->header('access-control-expose-headers'), "*, $name: headers too";
}
readable($t->request('/whole', json => { message => 'hi' }, @from), 'the whole answer');
readable($t->request('/health', @from), 'health');
for my $path ('/none', '/off') {
    $answer = $t->request("$path?message=hi", @from);
    is $answer->status, 200, "$path: answered";
    is scalar(grep { /^access-control-/ } keys %{ $answer->headers }), 0, "$path: without a word of CORS";
    is $answer->header('vary'), undef, "$path: or Vary";
    $answer = preflight($path, $APP, 'GET', 'authorization');
    is scalar(grep { /^access-control-/ } keys %{ $answer->headers }), 0, "$path: no preflight is granted";
}
$answer = $t->request('/app', method => 'OPTIONS');
is $answer->status . ' ' . $answer->header('allow'), '204 GET, HEAD, POST, DELETE, OPTIONS', 'OPTIONS without an origin is only that';

# ---- failures --------------------------------------------------------------------------------------------------------------

my %failures = (
    '400, no message'    => ['/app'],
    '400, bad JSON'      => ['/app', body => '{', headers => [ Origin => $APP, 'Content-Type' => 'application/json' ]],
    '401, no token'      => ['/required?message=hi'],
    '401, a bad token'   => ['/required?message=hi&token=x'],
    '401, Require'       => ['/valid?message=hi'],
    '401, a password'    => ['/basic?message=hi'],
    '403, httpd'         => ['/denied?message=hi'],
    '404, off'           => ['/disabled?message=hi'],
    '404, rollout'       => ['/out?message=hi'],
    '405, PUT'           => ['/app?message=hi', method => 'PUT', body => ''],
    '410, an old stream' => ['/app?last_event_id=01900000-0000-7000-8000-000000000000:1'],
    '413, too long'      => ['/app', json => { message => 'x' x 40_000 }],
    '415, XML'           => ['/app', body => '<x/>', headers => [ Origin => $APP, 'Content-Type' => 'text/xml' ]],
    '502, the upstream'  => ['/broken?message=hi'],
);
for my $name (sort keys %failures) {
    my ($path, @rest) = @{ $failures{$name} };
    $answer = readable($t->request($path, @from, @rest), $name);
    is $answer->status, substr($name, 0, 3), "$name: that it is";
}
is $t->request('/limited?message=hi', @from)->status, 200, 'one is allowed';
is readable($t->request('/limited?message=hi', @from), '429, rate')->json->{code}, 'rate_limited', '429, rate: that it is';
is grants(preflight('/limited', $APP, 'GET', 'authorization'), $APP, 'GET', 'authorization'), 'yes', 'a preflight is never too many';

my @streams = $t->stream('/wait?message=hi', @from);
is readable($t->request('/wait?message=hi', @from), '429, streams')->json->{code}, 'too_many_streams', '429, streams: that it is';
push @streams, map { $t->stream('/full?message=hi', @from) } 1 .. 2;
readable($streams[0], 'a stream that runs');
$answer = readable($t->request('/full?message=hi', @from), '503');
is $answer->status, 503, '503: that it is';
$streams[0]->event_of('token');
my $id = $streams[0]->header('x-stream-id');
is readable($t->request("/wait?stream_id=$id", method => 'DELETE', @from), 'DELETE')->status, 200, 'DELETE: it is cancelled';
$t->upstream->signal('end');
$_->body for @streams;
$answer = readable($t->request("/wait?last_event_id=$id:99", @from), '204');
is $answer->status, 204, '204: nothing is missing';
$_->close for @streams;

# ---- what is no origin -------------------------------------------------------------------------------------------------------

for my $wrong ('app.example.com', "$APP/", "$APP/page", "$APP *", "* $APP", 'https://', 'https://a b') {
    my $bad = ChatStream::Test->new(start => 0, upstreams => [], config => "ChatStreamCORS $wrong\n");
    my ($valid, $said) = $bad->httpd->check_config;
    ok !$valid, "'$wrong' is not accepted";
    like $said, qr/ChatStreamCORS/, 'and the error names the directive';
}
$t->done;
