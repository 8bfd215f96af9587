#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# How the upstream is reached (connections used again, HTTPS, Unix sockets) and what it is asked (headers, bodies, templates).
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Upstream;

sub write_file
{
    my ($file, $text) = @_;
    open my $handle, '>:raw', $file or die "$file: $!";
    print $handle $text;
    close $handle;
    return $file;
}

# A certificate of the test's CA with these extensions and options; (certificate, key).
sub certificate
{
    my ($dir, $name, $names, @options) = @_;
    write_file("$dir/$name.cnf", "[req]\ndistinguished_name=n\n[n]\n[v]\nbasicConstraints=critical,CA:FALSE\n"
        . "extendedKeyUsage=serverAuth\nsubjectAltName=$names\n");
    my $said = `cd '$dir' && openssl req -config $name.cnf -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -keyout $name.key -out $name.csr 2>&1 &&
        openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -extfile $name.cnf -extensions v -out $name.pem @options 2>&1`;
    die "openssl: $said" if $?;
    return [ "$dir/$name.pem", "$dir/$name.key" ];
}

my $t = ChatStream::Test->new(start => 0, upstreams => [ { unix => 1 }, { tls => 1 } ]);
my $conf = $t->dir . '/conf';
my %tls;
sub tls_upstream
{
    my ($name, $pair) = @_;
    $tls{$name} = ChatStream::Upstream->new(dir => $t->dir, program => $t->upstream->{program}, tls => $pair);
    return $tls{$name}->url . '/sse?tokens=2';
}
my $wrong_name = tls_upstream(name => certificate($conf, 'name', 'DNS:elsewhere.example'));
my $expired = tls_upstream(expired => certificate($conf, 'old', 'DNS:localhost', '-not_before 20200101000000Z -not_after 20210101000000Z'))
    if `openssl x509 -help 2>&1` =~ /-not_before/;
$expired //= tls_upstream(expired => certificate($conf, 'old', 'DNS:localhost', '-days', '-1'));
# Another CA of the same name.
my $other_ca = do {
    my $said = `cd '$conf' && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=chatstream-test-ca -keyout other.key -out other.pem 2>&1`;
    die $said if $?;
    "$conf/other.pem";
};

my $template = write_file("$conf/template.json", <<'END');
{"q": "{message}", "mixed": "<{user_role}> {message}!", "h": "{history}", "u": "{user}", "e": "{user_email}", "r": "{user_role}",
 "c": "{conversation_id}", "deep": [{"{message}": "{message}"}], "n": 1.50, "t": true, "z": null, "literal": "{unknown} \"x\" \\"}
END

sub https { my ($path, $url, @more) = @_; return chat($path, 'sse', "ChatStreamUpstream \"$url\" @more", 'ChatStreamCommitAfter 60') }

$t->httpd->{config} = join '',
    chat('/plain', 'sse?tokens=3'),
    chat('/done0', 'openai?tokens=3', 'ChatStreamUpstream "${UPSTREAM}/openai?tokens=3" dialect=openai', 'ChatStreamModel m'),
    chat('/refusing', 'sse?status=404', 'ChatStreamCommitAfter 60'),
    chat('/script', 'sse?script=s'),
    chat('/text', 'text?tokens=2', 'ChatStreamUpstream "${UPSTREAM}/text?tokens=2" dialect=text'),
    chat('/openai', 'openai', 'ChatStreamUpstream "${UPSTREAM}/openai?tokens=2" dialect=openai', 'ChatStreamModel "gpt \"4\""'),
    chat('/headers', 'sse?tokens=1', 'ChatStreamUpstreamHeader Authorization "Bearer SECRET-key"', 'ChatStreamUpstreamHeader X-One 1',
        'ChatStreamUpstreamHeader X-Two "a, b: c"', 'ChatStreamUpstreamHeader User-Agent teapot'),
    chat('/template', 'sse?tokens=1', "ChatStreamRequestTemplate $template"),
    chat('/socket', 'sse', 'ChatStreamUpstream "unix:${UPSTREAM_SOCKET}|http://rag.example/sse?tokens=3"'),
    chat('/nosocket', 'sse', 'ChatStreamUpstream "unix:/nowhere/x.sock|http://rag/sse"', 'ChatStreamCommitAfter 60'),
    https('/tls', '${UPSTREAM2}/sse?tokens=3', 'ca=conf/ca.pem'),
    https('/tls-split', '${UPSTREAM2}/sse?tokens=20&split=3&text=utf8', 'ca=conf/ca.pem'),
    https('/tls-big', '${UPSTREAM2}/sse?tokens=2000&size=500', 'ca=conf/ca.pem'),
    https('/no-ca', '${UPSTREAM2}/sse?tokens=3'),
    https('/other-ca', '${UPSTREAM2}/sse?tokens=3', 'ca=conf/other.pem'),
    https('/wrong-name', $wrong_name, 'ca=conf/ca.pem'),
    https('/expired', $expired, 'ca=conf/ca.pem'),
    https('/not-tls', 'https://127.0.0.1:' . $t->upstream->port . '/sse', 'ca=conf/ca.pem connect=300ms'),
    https('/to-tls', 'http://127.0.0.1:' . $t->upstream(2)->port . '/sse');
$t->start;
$t->allow_log(qr/stream \S+ ended as error/);

sub last_request { my ($number) = @_; my @all = $t->upstream($number)->requests; return $all[-1] }
sub body_of { return JSON::PP->new->decode(last_request(1)->{body}) }

# ---- connections ---------------------------------------------------------------------------------------------------------

sub connections
{
    my ($path, $number) = @_;
    my $upstream = $t->upstream($number || 1);
    my $before = $upstream->count;
    for (1 .. 20) {
        my @events = $t->request("$path?message=hi")->events;
        die "$path: $events[-1]{data}" if $events[-1]{json}{type} ne 'complete';
        # The response's own end comes after the event that ended the answer.
        $upstream->wait_for(finished => $before->{finished} + $_);
    }
    my $after = $upstream->count;
    is $after->{requests} - $before->{requests}, 20, "$path: asked once each";
    # One may be opened anew when the next question is faster than the end of the last answer.
    cmp_ok $after->{connections} - $before->{connections}, '<=', 4, "$path: connections are used again";
    return;
}
connections($_) for '/plain', '/done0', '/text', '/socket';
connections('/tls', 2);
is last_request(1)->{headers}{host}, 'rag.example', 'a Unix socket: the host is the URL\'s';

# Closed by the upstream while idle: the next request does not notice, and is asked once.
my $close = 'raw HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 40\r\n\r\ndata: {"content":"x"}\n\ndata: [DONE]\n\n' . "\n";
$close =~ s/Content-Length: 40/'Content-Length: ' . length("data: {\"content\":\"x\"}\n\ndata: [DONE]\n\n")/e;
$t->upstream->script(s => $close);
for my $n (1 .. 10) {
    my $before = $t->upstream->count('requests');
    is $t->request('/script?message=hi')->answer, 'x', "closed while idle, $n: answered";
    is $t->upstream->count('requests') - $before, 1, "closed while idle, $n: asked once";
}
# The same when the upstream is started anew.
$t->request('/plain?message=hi')->events;
$t->upstream->stop;
$t->upstream->start;
is $t->request('/plain?message=hi')->events, 5, 'an upstream that was started anew is asked';
is $t->upstream->count('requests'), 1, 'once';

# ---- TLS -----------------------------------------------------------------------------------------------------------------

is $t->request('/tls-split?message=hi')->events, 22, 'https, in small pieces';
my $big = $t->request('/tls-big?message=hi');
is length $big->answer, 1_000_000, 'https, a megabyte';
# A large question does not fit into one write.
my $long = 'x' x 30_000;
is $t->request('/tls', json => { message => $long, conversation_history => [ map { { role => 'user', content => $long } } 1 .. 30 ] })
    ->events, 5, 'https, a large request';
is length(JSON::PP->new->utf8->decode(last_request(2)->{body})->{conversation_history}[29]{content}), 30_000, 'arrives whole';

for my $case (
    [ '/no-ca', qr/SSL peer certificate/ ], [ '/other-ca', qr/SSL peer certificate/ ], [ '/wrong-name', qr/SSL peer certificate/ ],
    [ '/expired', qr/SSL peer certificate/ ], [ '/to-tls', qr/\w/ ],
    [ '/nosocket', qr/Couldn't connect/ ],
) {
    my ($path, $reason) = @$case;
    my $answer = $t->request("$path?message=hi");
    is $answer->status, 502, "$path: refused";
    is $answer->json->{code}, 'upstream_error', "$path: upstream_error";
    my $id = $answer->header('x-stream-id');
    ok $t->wait_log(qr/stream $id ended as error \(upstream_error\): upstream \S+: $reason/), "$path: the log says why"
        or diag grep { /$id/ } split /^/, $t->error_log;
}
# The simulator waits for the end of what is no request: connect= counts the handshake, too.
my $stalled = $t->request('/not-tls?message=hi');
is $stalled->status, 504, '/not-tls: no connection in time';
is $stalled->json->{code}, 'upstream_timeout', '/not-tls: upstream_timeout';
is $_->count('requests'), 0, 'nothing was asked over such a connection' for $tls{name}, $tls{expired};

# ---- what is asked -------------------------------------------------------------------------------------------------------

my $trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
my $answer = $t->request('/plain?message=hi', headers => { traceparent => $trace, Cookie => 'SECRET-cookie',
    Authorization => 'Bearer SECRET-client', 'X-Request-Id' => 'client' });
my $got = last_request(1);
my %headers = %{ $got->{headers} };
is $got->{method}, 'POST', 'POST';
is $headers{'x-request-id'}, $answer->header('x-stream-id'), 'X-Request-Id is the stream id';
is $headers{traceparent}, $trace, 'traceparent is passed on';
is $headers{'content-type'}, 'application/json', 'Content-Type';
like $headers{accept}, qr{text/event-stream}, 'Accept';
is $headers{'content-length'}, length $got->{body}, 'Content-Length';
unlike join(' ', %headers), qr/SECRET/, 'what the client is to us is not passed on';
ok !exists $headers{expect}, 'no Expect';
$t->request('/plain?message=hi')->events;
ok !exists last_request(1)->{headers}{traceparent}, 'no traceparent where there was none';

$t->request('/headers?message=hi')->events;
%headers = %{ last_request(1)->{headers} };
is_deeply [ @headers{qw(authorization x-one x-two user-agent)} ], [ 'Bearer SECRET-key', 1, 'a, b: c', 'teapot' ], 'ChatStreamUpstreamHeader';

my $history = [ { role => 'user', content => 'é"\\' }, { role => 'assistant', content => "\n\x{1f600}" } ];
my %question = (message => "Ü \"x\"\n{history}\\", conversation_history => $history, user_email => 'a@b.c', user_role => '"admin"},{',
    conversation_id => 'c-1');
$t->request('/plain', json => \%question)->events;
is_deeply body_of(), { %question, user => '127.0.0.1', stream => JSON::PP::true }, 'sse: the whole question';
$t->request('/plain?message=hi')->events;
is_deeply body_of(), { message => 'hi', user => '127.0.0.1', stream => JSON::PP::true }, 'sse: absent fields are left out';
$t->request('/text', json => \%question)->events;
is_deeply body_of(), { %question, user => '127.0.0.1', stream => JSON::PP::true }, 'text: the same';
$t->request('/openai', json => \%question)->events;
is_deeply body_of(), { model => 'gpt "4"', messages => [ @$history, { role => 'user', content => $question{message} } ],
    stream => JSON::PP::true, stream_options => { include_usage => JSON::PP::true } }, 'openai: its own request';

$t->request('/template', json => \%question)->events;
is_deeply body_of(), {
    q => $question{message}, mixed => "<$question{user_role}> $question{message}!", h => $history, u => '127.0.0.1', e => 'a@b.c',
    r => $question{user_role}, c => 'c-1', deep => [ { '{message}' => $question{message} } ], n => 1.5, t => JSON::PP::true,
    z => undef, literal => '{unknown} "x" \\',
}, 'template: values stay values';
$t->request('/template?message=hi')->events;
is_deeply body_of(), {
    q => 'hi', mixed => '<> hi!', h => undef, u => '127.0.0.1', e => undef, r => undef, c => undef, deep => [ { '{message}' => 'hi' } ],
    n => 1.5, t => JSON::PP::true, z => undef, literal => '{unknown} "x" \\',
}, 'template: absent values';

unlike $t->error_log, qr/SECRET/, 'no secret is logged';
$_->stop for values %tls;
$t->done;
